package programs

import (
	"archive/zip"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sallyport/internal/testkit"
)

// visits are the requests that an origin got: method, path and query.
type visits struct {
	mu   sync.Mutex
	list []string
}

func (v *visits) add(r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.list = append(v.list, r.Proto+" "+r.Method+" "+r.RequestURI)
}

// take gives what was added since the last time.
func (v *visits) take() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.list
	v.list = nil
	return l
}

// serveOrigin serves the same content by HTTP on port 80 and by HTTPS on port
// 443 of every address given.
func serveOrigin(t *testing.T, n *testkit.Neighbour, ca *testkit.Authority, dir string, addrs ...string) *visits {
	mux, seen := http.NewServeMux(), &visits{}
	mux.HandleFunc("/items/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.URL.Path) })
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s\n", r.Host) })
	serveGit(t, mux, dir)
	serveModules(t, mux)
	serveNpm(t, mux)
	serveCrates(t, mux)
	cert := ca.Leaf(t, allowedHost, deniedHost, "other.example")
	for _, addr := range addrs {
		testkit.Serve(t, n.Listen(t, net.JoinHostPort(addr, "80")), mux)
		testkit.Serve(t, testkit.Secure(n.Listen(t, net.JoinHostPort(addr, "443")), cert), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen.add(r)
			mux.ServeHTTP(w, r)
		}))
	}
	return seen
}

// serveGit makes a repository and serves it by the smart protocol, for pushes
// too.
func serveGit(t *testing.T, mux *http.ServeMux, dir string) {
	backend, err := exec.Command("git", "--exec-path").Output()
	fatal(t, err)
	work := filepath.Join(dir, "work")
	fatal(t, os.MkdirAll(work, 0o755))
	fatal(t, os.WriteFile(filepath.Join(work, "README"), []byte("cloned\n"), 0o644))
	for _, args := range [][]string{
		{"init", "-q", work}, {"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"},
		{"clone", "-q", "--bare", work, filepath.Join(dir, "git", "repo.git")},
	} {
		out, err := exec.Command("git", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	mux.Handle("/git/", http.StripPrefix("", &cgi.Handler{
		Path: strings.TrimSpace(string(backend)) + "/git-http-backend", Root: "/git/",
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Join(dir, "git"), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=2",
			"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_CONFIG_KEY_1=http.receivepack", "GIT_CONFIG_VALUE_1=true"},
	}))
}

// serveModules is a module proxy with one module, golang.org/ref/mod#goproxy-protocol.
func serveModules(t *testing.T, mux *http.ServeMux) {
	const mod = "module allowed.example/mod\n"
	var z bytes.Buffer
	w := zip.NewWriter(&z)
	for name, body := range map[string]string{"go.mod": mod, "mod.go": "package mod\n\nconst Hello = \"fetched\"\n"} {
		f, err := w.Create("allowed.example/mod@v1.0.0/" + name)
		fatal(t, err)
		f.Write([]byte(body))
	}
	fatal(t, w.Close())
	base := "GET /goproxy/allowed.example/mod/@v/"
	serve := func(path string, body []byte) {
		mux.HandleFunc(base+path, func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
	}
	serve("list", []byte("v1.0.0\n"))
	serve("v1.0.0.info", []byte(`{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}`))
	serve("v1.0.0.mod", []byte(mod))
	serve("v1.0.0.zip", z.Bytes())
}

// registry is an npm registry that keeps what is published,
// github.com/npm/registry/blob/main/docs/REGISTRY-API.md.
type registry struct {
	mu       sync.Mutex
	packages map[string]map[string]any // as they are served, but for where the server is
	files    map[string][]byte
}

// serveNpm is a registry with one package to begin with.
func serveNpm(t *testing.T, mux *http.ServeMux) {
	g := &registry{packages: map[string]map[string]any{}, files: map[string][]byte{}}
	dir := t.TempDir()
	fatal(t, os.MkdirAll(filepath.Join(dir, "package"), 0o755))
	fatal(t, os.WriteFile(filepath.Join(dir, "package/package.json"), []byte(`{"name":"tiny","version":"1.0.0","main":"i.js"}`), 0o644))
	fatal(t, os.WriteFile(filepath.Join(dir, "package/i.js"), []byte(`module.exports="installed"`), 0o644))
	tgz, err := exec.Command("tar", "-C", dir, "-cz", "package").Output()
	fatal(t, err)
	g.keep("tiny", "1.0.0", map[string]any{"name": "tiny", "version": "1.0.0"}, tgz)
	mux.HandleFunc("GET /npm/{name}", g.document)
	mux.HandleFunc("PUT /npm/{name}", g.publish)
	mux.HandleFunc("GET /npm/{name}/-/{file}", func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		w.Write(g.files[r.PathValue("file")])
	})
}

// keep puts a version of a package into the registry.
func (g *registry) keep(name, version string, manifest map[string]any, tgz []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.packages[name]
	if p == nil {
		p = map[string]any{"name": name, "versions": map[string]any{}}
		g.packages[name] = p
	}
	file := name + "-" + version + ".tgz"
	sum1, sum512 := sha1.Sum(tgz), sha512.Sum512(tgz)
	manifest["dist"] = map[string]any{
		"tarball": "ORIGIN/npm/" + name + "/-/" + file, "shasum": hex.EncodeToString(sum1[:]),
		"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum512[:]),
	}
	p["versions"].(map[string]any)[version] = manifest
	p["dist-tags"] = map[string]any{"latest": version}
	g.files[file] = tgz
}

func (g *registry) document(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.packages[r.PathValue("name")]
	if !ok {
		http.Error(w, `{"error":"not_found"}`, http.StatusNotFound)
		return
	}
	origin := "http://" + r.Host
	if r.TLS != nil {
		origin = "https://" + r.Host
	}
	b, _ := json.Marshal(p)
	w.Header().Set("Content-Type", "application/json")
	w.Write(bytes.ReplaceAll(b, []byte("ORIGIN"), []byte(origin)))
}

// publish takes one version with its file, from somebody with a token.
func (g *registry) publish(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Versions    map[string]map[string]any `json:"versions"`
		Attachments map[string]struct {
			Data []byte `json:"data"`
		} `json:"_attachments"`
	}
	if r.Header.Get("Authorization") != "Bearer publisher" {
		http.Error(w, `{"error":"who are you"}`, http.StatusUnauthorized)
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Versions) != 1 || len(in.Attachments) != 1 {
		http.Error(w, `{"error":"not one version"}`, http.StatusBadRequest)
		return
	}
	for version, manifest := range in.Versions {
		for _, a := range in.Attachments {
			g.keep(r.PathValue("name"), version, manifest, a.Data)
		}
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintln(w, `{"ok":true}`)
}

// serveCrates is a sparse registry with one crate, doc.rust-lang.org/cargo/reference/registry-index.html.
func serveCrates(t *testing.T, mux *http.ServeMux) {
	crate := crateFile(t)
	sum := sha256.Sum256(crate)
	mux.HandleFunc("GET /crates/config.json", func(w http.ResponseWriter, r *http.Request) {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		fmt.Fprintf(w, `{"dl":"%s://%s/crates/dl"}`, scheme, r.Host)
	})
	mux.HandleFunc("GET /crates/ti/ny/tiny", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"name":"tiny","vers":"1.0.0","deps":[],"cksum":"%x","features":{},"yanked":false}`+"\n", sum)
	})
	mux.HandleFunc("GET /crates/dl/tiny/1.0.0/download", func(w http.ResponseWriter, _ *http.Request) { w.Write(crate) })
}

func crateFile(t *testing.T) []byte {
	dir := t.TempDir()
	src := filepath.Join(dir, "tiny-1.0.0", "src")
	fatal(t, os.MkdirAll(src, 0o755))
	fatal(t, os.WriteFile(filepath.Join(dir, "tiny-1.0.0", "Cargo.toml"), []byte("[package]\nname = \"tiny\"\nversion = \"1.0.0\"\nedition = \"2021\"\n"), 0o644))
	fatal(t, os.WriteFile(filepath.Join(src, "lib.rs"), []byte("pub fn hello() {}\n"), 0o644))
	out, err := exec.Command("tar", "-C", dir, "-cz", "tiny-1.0.0").Output()
	fatal(t, err)
	return out
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
