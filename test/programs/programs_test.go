package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sallyport/internal/testkit"
)

// program is one row of the table: what is run as a shell script, with HOST for
// the host's name, WORK for the working directory and TOOLS for the scene's
// own, and what it prints when it got through.
type program struct {
	name   string
	needs  []string
	script string
	want   string
	denied string // what it prints when it is refused, with the proxy and captured
	ways   ways
}

// ways is which ways a program can go.
type ways uint8

const (
	both     ways = iota
	captured      // it knows no proxy variables
	proxied       // it speaks to the proxy by itself, and to nothing else
)

// What programs say of a name that does not exist, and of a CONNECT that is refused.
const (
	noName    = `(?i)could not resolve|unable to resolve|not known|ENOTFOUND|no such host|UnknownHost|unknown host|could not translate|no address associated`
	forbidden = `403|[Ff]orbidden`
)

var programs = []program{
	{name: "curl", needs: []string{"curl"}, script: `curl -sS --fail https://HOST/hello`, want: "hello from"},
	{name: "curl, plain HTTP", needs: []string{"curl"}, script: `curl -sS --fail http://HOST/hello`, want: "hello from"},
	{name: "wget", needs: []string{"wget"}, script: `wget -nv -O- --tries=1 --ca-certificate=WORK/ca.pem https://HOST/hello`, want: "hello from"},
	{name: "python3 urllib", needs: []string{"python3"}, script: `python3 -c 'import urllib.request as u; print(u.urlopen("https://HOST/hello").read().decode())'`, want: "hello from"},
	{name: "node fetch", needs: []string{"node"}, ways: captured, script: `node -e 'fetch("https://HOST/hello").then(r=>r.text()).then(console.log,e=>{console.error(String(e.cause));process.exit(1)})'`, want: "hello from"},
	{name: "node, an agent that knows the proxy", needs: []string{"node"}, ways: proxied, script: nodeConnect, want: "hello from"},
	{name: "git clone", needs: []string{"git"}, script: `git clone -q https://HOST/git/repo.git c && cat c/README`, want: "cloned"},
	{name: "go get", needs: []string{"go"}, script: `mkdir m && cd m && go mod init m >/dev/null 2>&1 && GOPROXY=https://HOST/goproxy GONOSUMDB='*' GOFLAGS=-mod=mod go get allowed.example/mod@v1.0.0 && cat go.mod`, want: "allowed.example/mod v1.0.0"},
	{name: "Go net/http", script: `TOOLS/client get https://HOST/hello`, want: "hello from"},
	{name: "npm install", needs: []string{"npm"}, script: `npm install --no-audit --no-fund --fetch-retries=0 --registry https://HOST/npm/ tiny >/dev/null && node -p 'require("tiny")'`, want: "installed"},
	{name: "cargo fetch", needs: []string{"cargo"}, script: cargoFetch, want: "tiny-1.0.0.crate"},
	{name: "java", needs: []string{"java"}, ways: captured, script: `java -cp TOOLS/java -Djavax.net.ssl.trustStore=TOOLS/trust.p12 -Djavax.net.ssl.trustStorePassword=changeit Get https://HOST/hello`, want: "hello from"},
	{name: "psql", needs: []string{"psql"}, ways: captured, script: `psql -h HOST -U agent -d postgres -Atc 'select 41 + 1'`, want: "42"},
	{name: "redis-cli", needs: []string{"redis-cli"}, ways: captured, script: `redis-cli -h HOST ping`, want: "PONG"},
	{name: "git over ssh", needs: []string{"git", "ssh"}, ways: captured, script: `GIT_SSH_COMMAND='ssh -F /dev/null -i TOOLS/id -o UserKnownHostsFile=TOOLS/known_hosts -o BatchMode=yes' git clone -q root@HOST:TOOLS/git/repo.git c && cat c/README`, want: "cloned"},
}

const nodeConnect = `node -e '
const http = require("http"), tls = require("tls"), p = new URL(process.env.HTTPS_PROXY);
const r = http.request({host: p.hostname, port: p.port, method: "CONNECT", path: "HOST:443", headers: {host: "HOST:443"}});
r.on("connect", (res, socket, head) => {
  if (res.statusCode != 200) { console.error(res.statusCode, res.statusMessage); process.exit(1); }
  const c = tls.connect({socket, servername: "HOST"}, () => c.write("GET /hello HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"));
  c.pipe(process.stdout);
}).end();'`

const cargoFetch = `mkdir -p c/src .cargo && echo 'fn main(){}' > c/src/main.rs &&
printf '[package]\nname="c"\nversion="0.1.0"\nedition="2021"\n[dependencies]\ntiny={version="1",registry="r"}\n' > c/Cargo.toml &&
printf '[registries.r]\nindex="sparse+https://HOST/crates/"\n[net]\nretry=0\n' > .cargo/config.toml &&
export RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_SPARSE_REGISTRY=true && # for a cargo of before 1.68, Debian 12's
cd c && cargo fetch && ls $CARGO_HOME/registry/cache/*/`

const javaGet = `import java.net.*; import java.io.*;
public class Get { public static void main(String[] a) throws Exception {
  try (InputStream in = new URL(a[0]).openStream()) { in.transferTo(System.out); } } }
`

// TestPrograms makes the table of docs/programs.md.
func TestPrograms(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.serveAll(t)
		rows := make([]row, len(programs))
		var wg sync.WaitGroup
		for i, p := range programs {
			wg.Go(func() {
				t.Run(p.name, func(t *testing.T) { rows[i] = s.row(t, p) })
			})
		}
		wg.Wait()
		// No query for the denied name has left, and the resolver would have seen it.
		if n := s.names.times(allowedHost); n == 0 || s.wire.Frames("allowed") == 0 {
			t.Errorf("control: the resolver was asked %d times for the allowed name, %d frames seen", n, s.wire.Frames("allowed"))
		}
		if n, f := s.names.times(deniedHost), s.wire.Frames("denied"); n != 0 || f != 0 {
			t.Errorf("the resolver was asked %d times for the denied name, %d frames seen", n, f)
		}
		document(t, rows)
		// The same for somebody without any privilege.
		s.as = &syscall.Credential{Uid: testkit.NobodyID, Gid: testkit.NobodyID}
		t.Run("nobody", func(t *testing.T) { s.row(t, programs[0]) })
	})
}

// serveAll starts every server of the other host.
func (s *scene) serveAll(t *testing.T) {
	ca := testkit.NewAuthority(t)
	s.ca = ca.PEM
	serveOrigin(t, s.n, ca, s.dir, allowedAddr, deniedAddr)
	s.linkRust(t)
	build(t, filepath.Join(s.dir, "client"), "sallyport/test/programs/client")
	s.prepareJava(t)
	var wg sync.WaitGroup
	wg.Go(func() { s.servePostgres(t) })
	wg.Go(func() { s.serveRedis(t) })
	wg.Go(func() { s.serveSSH(t) })
	wg.Wait()
}

// prepareJava compiles the client and makes its trust store, outside.
func (s *scene) prepareJava(t *testing.T) {
	if s.installed("java") != nil {
		return
	}
	dir := filepath.Join(s.dir, "java")
	fatal(t, os.Mkdir(dir, 0o755))
	fatal(t, os.WriteFile(filepath.Join(dir, "Get.java"), []byte(javaGet), 0o644))
	pem := filepath.Join(s.dir, "ca.pem")
	fatal(t, os.WriteFile(pem, s.ca, 0o644))
	for _, args := range [][]string{
		{"java", "-m", "jdk.compiler/com.sun.tools.javac.Main", "-d", dir, filepath.Join(dir, "Get.java")},
		{"keytool", "-importcert", "-noprompt", "-alias", "t", "-file", pem, "-keystore", s.dir + "/trust.p12", "-storetype", "PKCS12", "-storepass", "changeit"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// row is what was seen of a program, for the table.
type row struct {
	program
	skipped                 bool
	proxyDenied, nameDenied string // its own words
}

func (s *scene) row(t *testing.T, p program) row {
	r := row{program: p, skipped: true}
	s.requireAll(t, p.needs...)
	r.skipped = false
	if p.ways != captured {
		s.reaches(t, p, "")
		r.proxyDenied = s.refused(t, p, "", forbidden)
	}
	if p.ways != proxied {
		s.reaches(t, p, unset)
		r.nameDenied = s.refused(t, p, unset, noName)
	}
	return r
}

func (s *scene) reaches(t *testing.T, p program, before string) {
	t.Helper()
	work := s.work(t)
	o := s.run(t, work, before+strings.ReplaceAll(p.script, "HOST", allowedHost))
	if o.status != 0 || !strings.Contains(o.out, p.want) {
		t.Errorf("did not reach the allowed host (%q first): %v", before, o)
	}
}

// refused wants the program to fail in words that match, and sallyport to say
// which host was denied. It returns the program's words.
func (s *scene) refused(t *testing.T, p program, before, words string) string {
	t.Helper()
	o := s.run(t, s.work(t), before+strings.ReplaceAll(p.script, "HOST", deniedHost))
	said := regexp.MustCompile(`(?m)^.*(` + words + `).*$`).FindString(o.out)
	switch {
	case o.status == 0 || strings.Contains(o.out, p.want):
		t.Errorf("reached the denied host (%q first): %v", before, o)
	case said == "":
		t.Errorf("was refused in unclear words, want %s: %v", words, o)
	case !strings.Contains(o.told, "denied") || !strings.Contains(o.told, deniedHost):
		t.Errorf("sallyport did not say that %s was denied: %v", deniedHost, o)
	}
	return said
}
