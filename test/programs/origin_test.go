package programs

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/internal/testkit"
)

// authority is a certificate authority for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	fatal(t, err)
	cert, err := x509.ParseCertificate(der)
	fatal(t, err)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) leaf(t *testing.T, names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fatal(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	fatal(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveOrigin serves the same content by HTTP on port 80 and by HTTPS on port
// 443 of every address given.
func serveOrigin(t *testing.T, n *testkit.Neighbour, ca *authority, dir string, addrs ...string) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s\n", r.Host) })
	serveGit(t, mux, dir)
	serveModules(t, mux)
	serveNpm(t, mux)
	serveCrates(t, mux)
	cert := ca.leaf(t, allowedHost, deniedHost)
	for _, addr := range addrs {
		for _, port := range []string{"80", "443"} {
			l := n.Listen(t, net.JoinHostPort(addr, port))
			if port == "443" {
				l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
			}
			srv := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
			done := make(chan struct{})
			go func() { srv.Serve(l); close(done) }()
			t.Cleanup(func() { srv.Close(); <-done })
		}
	}
}

// serveGit makes a repository and serves it by the smart protocol.
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
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Join(dir, "git"), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
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

// serveNpm is a registry with one package.
func serveNpm(t *testing.T, mux *http.ServeMux) {
	dir := t.TempDir()
	fatal(t, os.MkdirAll(filepath.Join(dir, "package"), 0o755))
	fatal(t, os.WriteFile(filepath.Join(dir, "package/package.json"), []byte(`{"name":"tiny","version":"1.0.0","main":"i.js"}`), 0o644))
	fatal(t, os.WriteFile(filepath.Join(dir, "package/i.js"), []byte(`module.exports="installed"`), 0o644))
	tgz, err := exec.Command("tar", "-C", dir, "-cz", "package").Output()
	fatal(t, err)
	sum1, sum512 := sha1.Sum(tgz), sha512.Sum512(tgz)
	mux.HandleFunc("GET /npm/tiny", func(w http.ResponseWriter, r *http.Request) {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		json.NewEncoder(w).Encode(map[string]any{
			"name": "tiny", "dist-tags": map[string]string{"latest": "1.0.0"},
			"versions": map[string]any{"1.0.0": map[string]any{"name": "tiny", "version": "1.0.0", "dist": map[string]string{
				"tarball": scheme + "://" + r.Host + "/npm/tiny.tgz", "shasum": hex.EncodeToString(sum1[:]),
				"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum512[:]),
			}}},
		})
	})
	mux.HandleFunc("GET /npm/tiny.tgz", func(w http.ResponseWriter, _ *http.Request) { w.Write(tgz) })
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
