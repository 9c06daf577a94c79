package supervisor

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sallyport/internal/egress/inspect"
)

// origin is a TLS server that only a session with its authority reaches, and
// that plays as much of a registry as each program asks for.
type origin struct {
	port int
	ca   string // file

	mu   sync.Mutex
	seen []string
}

var pages = map[string]string{
	"/hello":                 "hello from the server",
	"/repo.git/info/refs":    "0123456789012345678901234567890123456789\trefs/heads/main\n",
	"/repo.git/HEAD":         "ref: refs/heads/main\n",
	"/simple/thing/":         "<html><body></body></html>",
	"/thing":                 `{"name":"thing","dist-tags":{"latest":"1.2.3"},"versions":{"1.2.3":{"name":"thing","version":"1.2.3","dist":{"tarball":"https://api.example.com/x.tgz","shasum":"00"}}}}`,
	"/example.com/m/@v/list": "v1.2.3\n",
	"/config.json":           `{"dl":"https://api.example.com/dl","api":"https://api.example.com"}`,
	"/api/v1/crates":         `{"crates":[{"name":"thing","max_version":"1.2.3","description":"x"}],"meta":{"total":1}}`,
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	world, err := inspect.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := world.Server("api.example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{port: l.Addr().(*net.TCPAddr).Port, ca: filepath.Join(workdir(t), "ca.pem")}
	if err := os.WriteFile(o.ca, world.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{TLSConfig: cfg, Handler: http.HandlerFunc(o.serve)}
	done := make(chan struct{})
	go func() { defer close(done); s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { s.Close(); <-done })
	return o
}

func (o *origin) serve(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.seen = append(o.seen, r.Method+" "+r.URL.Path)
	o.mu.Unlock()
	page, ok := pages[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if strings.HasPrefix(page, "{") {
		w.Header().Set("Content-Type", "application/json")
	} else {
		w.Header().Set("Content-Type", "text/html")
	}
	io.WriteString(w, page)
}

func (o *origin) policy() string {
	return fmt.Sprintf(`version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /lib, /lib64, /bin, /etc, /proc, /dev/urandom]
  read_write: [/tmp, /dev/null]
network_policies:
  registry:
    endpoints: [{host: api.example.com, port: 443, protocol: rest, access: read-only, enforcement: enforce}]
    binaries: [{path: /**}]
host_services: [{host: api.example.com, port: 443, to: "127.0.0.1:%d"}]
`, o.port)
}

const goProgram = `package main
import ("fmt"; "io"; "net/http")
func main() {
	r, err := http.Get("https://api.example.com/hello")
	if err != nil { panic(err) }
	b, _ := io.ReadAll(r.Body)
	fmt.Println(string(b))
}`

const javaProgram = `import java.net.*; import java.io.*;
public class T { public static void main(String[] a) throws Exception {
  System.out.println(new String(new URL("https://api.example.com/hello").openStream().readAllBytes()));
} }`

// runtimes are the programs that must accept the session's authority by what
// their environment says, each in its own way of asking for a page. PROGRAM is
// the program's path.
var runtimes = []struct{ name, needs, script, want string }{
	{"curl", "curl", `curl -sS https://api.example.com/hello`, "hello from"},
	{"openssl", "openssl", `printf 'GET /hello HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n' | openssl s_client -quiet -verify_return_error -connect api.example.com:443 -servername api.example.com 2>/dev/null`, "hello from"},
	{"git", "git", `git ls-remote https://api.example.com/repo.git`, "refs/heads/main"},
	{"python", "/usr/bin/python3", `/usr/bin/python3 -c 'import urllib.request as u; print(u.urlopen("https://api.example.com/hello").read())'`, "hello from"},
	{"requests", "python requests", `/usr/bin/python3 -c 'import requests; print(requests.get("https://api.example.com/hello").text)'`, "hello from"},
	{"httpx", "python httpx", `/usr/bin/python3 -c 'import httpx; print(httpx.get("https://api.example.com/hello").text)'`, "hello from"},
	{"pip", "python pip", `/usr/bin/python3 -m pip --disable-pip-version-check --no-cache-dir download --index-url https://api.example.com/simple thing 2>&1`, "from versions: none"},
	{"node", "node", `node -e 'fetch("https://api.example.com/hello").then(r => r.text()).then(console.log)'`, "hello from"},
	{"node https", "node", `node -e 'require("https").get("https://api.example.com/hello", r => r.on("data", d => console.log(String(d))))'`, "hello from"},
	{"npm", "npm", `npm --registry https://api.example.com/ --cache ./npm view thing version`, "1.2.3"},
	{"go", "go", `./hello`, "hello from"},
	{"go modules", "go", `GOPROXY=https://api.example.com GONOSUMDB=* GOFLAGS=-mod=mod go list -m -versions example.com/m`, "v1.2.3"},
	{"java", "java", `java -XX:TieredStopAtLevel=1 -cp . T`, "hello from"},
	{"cargo", "cargo", `cargo search --index sparse+https://api.example.com/ thing`, "thing = "},
	{"deno", "deno", `deno eval 'console.log(await (await fetch("https://api.example.com/hello")).text())'`, "hello from"},
	{"bun", "bun", `bun -e 'console.log(await (await fetch("https://api.example.com/hello")).text())'`, "hello from"},
}

// installed says why a program cannot be had by a sandbox's user.
func installed(needs string) error {
	if module, ok := strings.CutPrefix(needs, "python "); ok {
		return exec.Command("/usr/bin/python3", "-c", "import "+module).Run()
	}
	if fromNpm(needs) != "" {
		return nil
	}
	path, err := exec.LookPath(needs)
	if err != nil {
		return err
	}
	if path, err = filepath.EvalSymlinks(path); err == nil && !strings.HasPrefix(path, "/usr/") {
		err = fmt.Errorf("%s is outside of /usr, where the sandbox does not look", path)
	}
	return err
}

// fromNpm is a program that Debian does not have, as npm has installed it for
// this platform below test/runtimes, or nothing.
func fromNpm(name string) string {
	for _, pattern := range []string{"@*/*/", "@*/*/bin/"} {
		if found, _ := filepath.Glob("../../test/runtimes/node_modules/" + pattern + name); len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// TestRuntimesTrustTheSession: every runtime reaches an inspected host without a
// word about certificates, and what it may not ask for is refused in words.
func TestRuntimesTrustTheSession(t *testing.T) {
	for _, r := range runtimes {
		t.Run(r.name, func(t *testing.T) {
			if err := installed(r.needs); err != nil {
				t.Skipf("%s: %v", r.needs, err)
			}
			o := newOrigin(t)
			dir := workdir(t)
			build(t, r.name, dir)
			users(t, func(t *testing.T, as *syscall.Credential) {
				if as == nil && os.Getuid() == 0 {
					return // root becomes the same nobody
				}
				out, status := try(t, as, spec{
					Policy: o.policy(), Workdir: dir, UpstreamCA: o.ca,
					Command: []string{"sh", "-c", "export HOME=$PWD GOPATH=$PWD/go GOCACHE=$PWD/cache GOTOOLCHAIN=local CARGO_HOME=$PWD/cargo PATH=$PATH:/usr/local/go/bin:$PWD; " + r.script},
				})
				if !strings.Contains(out, r.want) {
					t.Errorf("status %d, %q not in\n%s", status, r.want, out)
				}
			})
			o.mu.Lock()
			defer o.mu.Unlock()
			if len(o.seen) == 0 {
				t.Error("the server was not asked")
			}
		})
	}
}

// build makes what a runtime needs beside its own program.
func build(t *testing.T, name, dir string) {
	t.Helper()
	var cmd *exec.Cmd
	switch name {
	case "go":
		write(t, filepath.Join(dir, "main.go"), goProgram)
		cmd = exec.Command("go", "build", "-o", "hello", "main.go")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	case "java":
		write(t, filepath.Join(dir, "T.java"), javaProgram)
		cmd = exec.Command("java", "-m", "jdk.compiler/com.sun.tools.javac.Main", "T.java") // javac is not in every runtime
	case "deno", "bun":
		if fromNpm(name) == "" {
			return
		}
		from, err := filepath.Abs(fromNpm(name))
		if err != nil {
			t.Fatal(err)
		}
		cmd = exec.Command("cp", from, ".")
	default:
		return
	}
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
