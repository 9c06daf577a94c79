package supervisor

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	"/simple/thing/":         `<html><body><a href="thing-1.2.3.tar.gz">thing-1.2.3.tar.gz</a></body></html>`,
	"/thing":                 `{"name":"thing","dist-tags":{"latest":"1.2.3"},"versions":{"1.2.3":{"name":"thing","version":"1.2.3","dist":{"tarball":"https://api.example.com/x.tgz","shasum":"00"}}}}`,
	"/example.com/m/@v/list": "v1.2.3\n",
	"/config.json":           `{"dl":"https://api.example.com/dl","api":"https://api.example.com"}`,
	"/nix-cache-info":        "StoreDir: /nix/store\n",
	"/bucket/key":            "hello from the bucket",
	"/test.Greeter/Hello":    "\x00\x00\x00\x00\x0ahello from", // a message of gRPC: not compressed, its length, its bytes
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
	if page[0] == 0 {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	} else if strings.HasPrefix(page, "{") {
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
    endpoints: [{host: api.example.com, port: 443, protocol: rest, access: read-write, enforcement: enforce}]
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

const botocoreProgram = `import botocore, botocore.session, botocore.config as c
print(botocore.session.get_session().create_client("s3", region_name="us-east-1", endpoint_url="https://api.example.com",
  config=c.Config(signature_version=botocore.UNSIGNED, s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
).get_object(Bucket="bucket", Key="key")["Body"].read())`

const grpcProgram = `import grpc
channel = grpc.secure_channel("api.example.com:443", grpc.ssl_channel_credentials())
print(channel.unary_unary("/test.Greeter/Hello")(b"", timeout=30))`

type program struct{ name, needs, script, want string }

// runtimes are the programs that must accept the session's authority by what
// their environment says, each in its own way of asking for a page. PROGRAM is
// the program's path.
var runtimes = []program{
	{"curl", "curl", `curl -sS https://api.example.com/hello`, "hello from"},
	{"openssl", "openssl", `printf 'GET /hello HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n' | openssl s_client -quiet -verify_return_error -connect api.example.com:443 -servername api.example.com 2>/dev/null`, "hello from"},
	{"git", "git", `git ls-remote https://api.example.com/repo.git`, "refs/heads/main"},
	{"python", "/usr/bin/python3", `/usr/bin/python3 -c 'import urllib.request as u; print(u.urlopen("https://api.example.com/hello").read())'`, "hello from"},
	{"requests", "python requests", `/usr/bin/python3 -c 'import requests; print(requests.get("https://api.example.com/hello").text)'`, "hello from"},
	{"httpx", "python httpx", `/usr/bin/python3 -c 'import httpx; print(httpx.get("https://api.example.com/hello", timeout=60).text)'`, "hello from"},
	{"pip", "python pip", `/usr/bin/python3 -m pip --disable-pip-version-check --no-cache-dir --retries 0 download --index-url https://api.example.com/simple thing==9 2>&1`, "from versions: 1.2.3"},
	{"node", "node", `node -e 'fetch("https://api.example.com/hello").then(r => r.text()).then(console.log)'`, "hello from"},
	{"node https", "node", `node -e 'require("https").get("https://api.example.com/hello", r => r.on("data", d => console.log(String(d))))'`, "hello from"},
	{"npm", "npm", `npm --fetch-retries 0 --registry https://api.example.com/ --cache ./npm view thing version`, "1.2.3"},
	{"go", "go", `./hello`, "hello from"},
	{"go modules", "go", `GOPROXY=https://api.example.com GONOSUMDB=* GOFLAGS=-mod=mod go list -m -versions example.com/m`, "v1.2.3"},
	{"java", "java", `java -XX:TieredStopAtLevel=1 -cp . T`, "hello from"},
	{"cargo", "cargo", `RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_SPARSE_REGISTRY=true CARGO_NET_RETRY=0 cargo search --index sparse+https://api.example.com/ thing`, "thing = "},
	{"deno", "deno", `deno eval 'console.log(await (await fetch("https://api.example.com/hello")).text())'`, "hello from"},
	{"botocore", "python botocore", `/usr/bin/python3 aws.py`, "hello from"},
	{"grpc", "python grpc", `/usr/bin/python3 greet.py`, "hello from"},
	{"nix", "nix", `NIX_STATE_DIR=$PWD/nix nix --extra-experimental-features nix-command --option download-attempts 1 store ping --store https://api.example.com 2>&1`, "Store URL: https://api.example.com"},
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
				out, status := o.ask(t, as, dir, r.script)
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

// ask runs a script in a sandbox that may reach the server.
func (o *origin) ask(t *testing.T, as *syscall.Credential, dir, script string) (out string, status int) {
	t.Helper()
	return try(t, as, spec{
		Policy: o.policy(), Workdir: dir, UpstreamCA: o.ca,
		Command: []string{"sh", "-c", "export HOME=$PWD GOPATH=$PWD/go GOCACHE=$PWD/cache GOTOOLCHAIN=local CARGO_HOME=$PWD/cargo PATH=$PATH:/usr/local/go/bin:$PWD; " + script},
	})
}

// alone are variables with a program that trusts the session by nothing else. Google's
// command line is in no package of Debian's or npm's.
var alone = []struct{ variable, runtime string }{
	{"SSL_CERT_FILE", "python"}, {"CURL_CA_BUNDLE", "curl"}, {"GIT_SSL_CAINFO", "git"}, {"REQUESTS_CA_BUNDLE", "requests"}, {"PIP_CERT", "pip"},
	{"CARGO_HTTP_CAINFO", "cargo"}, {"AWS_CA_BUNDLE", "botocore"}, {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "grpc"}, {"NIX_SSL_CERT_FILE", "nix"},
	{"npm_config_cafile", "npm"}, {"NODE_EXTRA_CA_CERTS", "node"}, {"DENO_CERT", "deno"},
	{"JAVA_TOOL_OPTIONS", "java"},
}

// TestEachVariableAlone: a program that is told by its own variable only trusts the
// session, and does not without it.
func TestEachVariableAlone(t *testing.T) {
	all := []string{"JAVA_TOOL_OPTIONS"} // names a store, the others files
	for _, v := range trusting {
		all = append(all, v.name)
	}
	for _, a := range alone {
		t.Run(a.variable, func(t *testing.T) {
			r := runtimes[slices.IndexFunc(runtimes, func(r program) bool { return r.name == a.runtime })]
			if err := installed(r.needs); err != nil {
				t.Skipf("%s: %v", r.needs, err)
			}
			o := newOrigin(t)
			dir := workdir(t)
			build(t, r.name, dir)
			others := slices.DeleteFunc(slices.Clone(all), func(v string) bool { return v == a.variable })
			users(t, func(t *testing.T, as *syscall.Credential) {
				if as == nil && os.Getuid() == 0 {
					return // root becomes the same nobody
				}
				if out, status := o.ask(t, as, dir, "unset "+strings.Join(others, " ")+"; "+r.script); !strings.Contains(out, r.want) {
					t.Errorf("with the variable: status %d, %q not in\n%s", status, r.want, out)
				}
				o.mu.Lock()
				asked := len(o.seen)
				o.mu.Unlock()
				if out, _ := o.ask(t, as, dir, "unset "+strings.Join(all, " ")+"; rm -rf .cache npm; "+r.script); strings.Contains(out, r.want) {
					t.Errorf("without any: %s", out)
				}
				o.mu.Lock()
				defer o.mu.Unlock()
				if asked == 0 || len(o.seen) != asked {
					t.Errorf("the server was asked %d times with the variable and %d without", asked, len(o.seen)-asked)
				}
			})
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
	case "botocore":
		write(t, filepath.Join(dir, "aws.py"), botocoreProgram)
		return
	case "grpc":
		write(t, filepath.Join(dir, "greet.py"), grpcProgram)
		return
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
