//go:build programs

// Package programs runs real programs as agents: each reaches an allowed host
// and is refused a denied one, once with the proxy in its environment and once
// without knowing of any.
package programs

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/internal/testkit"
)

var table = flag.String("table", "", "write what was seen to this file, as a Markdown table")

// program is one row: what is run, with HOST for the host's name and WORK for
// the working directory, and what it prints when it got through.
type program struct {
	name   string
	needs  []string
	script string // for sh
	want   string
	// onlyCaptured programs know no proxy variable, or not this version of them.
	onlyCaptured bool
}

var programs = []program{
	{name: "curl", needs: []string{"curl"}, script: `curl -sS --fail https://HOST/hello`, want: "hello from"},
	{name: "curl http", needs: []string{"curl"}, script: `curl -sS --fail http://HOST/hello`, want: "hello from"},
	{name: "wget", needs: []string{"wget"}, script: `wget -qO- --tries=1 --ca-certificate=WORK/ca.pem https://HOST/hello`, want: "hello from"},
	{name: "python3 urllib", needs: []string{"python3"}, script: `python3 -c 'import urllib.request as u; print(u.urlopen("https://HOST/hello").read().decode())'`, want: "hello from"},
	{name: "node fetch", needs: []string{"node"}, onlyCaptured: true, script: `node -e 'fetch("https://HOST/hello").then(r=>r.text()).then(console.log,e=>{console.error(e,e.cause);process.exit(1)})'`, want: "hello from"},
	{name: "git clone", needs: []string{"git"}, script: `git clone -q https://HOST/git/repo.git c && cat c/README`, want: "cloned"},
	{name: "go get", needs: []string{"go"}, script: `mkdir m && cd m && go mod init m >/dev/null 2>&1 && GOPROXY=https://HOST/goproxy GONOSUMDB='*' GONOSUMCHECK=1 GOFLAGS=-mod=mod go get allowed.example/mod@v1.0.0 && cat go.mod`, want: "allowed.example/mod v1.0.0"},
	{name: "npm install", needs: []string{"npm"}, script: `npm install --no-audit --no-fund --fetch-retries=0 --registry https://HOST/npm/ tiny >/dev/null && node -p 'require("tiny")'`, want: "installed"},
	{name: "cargo fetch", needs: []string{"cargo"}, script: `mkdir -p c/src .cargo && echo 'fn main(){}' > c/src/main.rs && printf '[package]\nname="c"\nversion="0.1.0"\nedition="2021"\n[dependencies]\ntiny={version="1",registry="r"}\n' > c/Cargo.toml && printf '[registries.r]\nindex="sparse+https://HOST/crates/"\n[net]\nretry=0\n' > .cargo/config.toml && cd c && cargo fetch && ls $CARGO_HOME/registry/cache/*/`, want: "tiny-1.0.0.crate"},
	{name: "java", needs: []string{"java"}, onlyCaptured: true, script: `java -Djavax.net.ssl.trustStore=WORK/trust.p12 -Djavax.net.ssl.trustStorePassword=changeit WORK/Get.java https://HOST/hello`, want: "hello from"},
}

const javaGet = `import java.net.*; import java.io.*;
public class Get { public static void main(String[] a) throws Exception {
  try (InputStream in = new URL(a[0]).openStream()) { in.transferTo(System.out); } } }
`

const policyTemplate = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /bin, /sbin, /lib, /lib64, /etc, /proc, /opt, /sys/fs/cgroup, /sys/devices/system/cpu, /sys/kernel/mm, /dev/urandom, /dev/random, TOOLS]
  read_write: [/dev/null, /tmp]
landlock: {compatibility: best_effort}
network_policies:
  web:
    endpoints: [{host: allowed.example, ports: [80, 443]}]
    binaries: [{path: "/**"}]
`

// TestPrograms makes the table of the documentation.
func TestPrograms(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		var rows []string
		for _, p := range programs {
			t.Run(p.name, func(t *testing.T) {
				rows = append(rows, b.row(t, p))
			})
		}
		if *table != "" {
			head := "| program | proxy variables | no proxy at all | denied host |\n|---|---|---|---|\n"
			fatal(t, os.WriteFile(*table, []byte(head+strings.Join(rows, "")), 0o644))
		}
	}, allowedAddr, deniedAddr)
}

// bench is what all rows share: the program, the origin and its authority.
type bench struct {
	dir, bin, policy string
	path             string // the agent's PATH
}

func newBench(t *testing.T) *bench {
	dir, err := os.MkdirTemp("/tmp", "programs-")
	fatal(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	fatal(t, os.Chmod(dir, 0o755))
	b := &bench{dir: dir, bin: filepath.Join(dir, "sallyport"), policy: filepath.Join(dir, "policy.yaml")}
	build := exec.Command("go", "build", "-o", b.bin, "../../cmd/sallyport")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	b.path = toolchain(t, dir) + ":/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin"
	ca := newAuthority(t)
	serveOrigin(t, ca, dir, allowedAddr, deniedAddr)
	fatal(t, os.WriteFile(filepath.Join(dir, "ca.pem"), ca.pem, 0o644))
	fatal(t, os.WriteFile(b.policy, []byte(strings.ReplaceAll(policyTemplate, "TOOLS", dir)), 0o644))
	return b
}

// toolchain links Rust's own directory, which rustup keeps in a home that uid
// 65534 cannot enter, into dir. It returns the directory of its programs.
func toolchain(t *testing.T, dir string) string {
	out, err := exec.Command("rustc", "--print", "sysroot").Output()
	if err != nil {
		return "/usr/bin"
	}
	to := filepath.Join(dir, "rust")
	if out, err := exec.Command("cp", "-al", strings.TrimSpace(string(out)), to).CombinedOutput(); err != nil {
		t.Fatalf("linking the toolchain: %v\n%s", err, out)
	}
	return filepath.Join(to, "bin")
}

// installed says whether one of the directories in the agent's PATH has the program.
func (b *bench) installed(name string) bool {
	for d := range strings.SplitSeq(b.path, ":") {
		if _, err := os.Stat(filepath.Join(d, name)); err == nil {
			return true
		}
	}
	return false
}

func (b *bench) row(t *testing.T, p program) string {
	for _, n := range p.needs {
		if !b.installed(n) {
			t.Skipf("%s is not installed", n)
		}
	}
	mark := func(ok bool) string {
		if ok {
			return "reached"
		}
		return "–"
	}
	withProxy := false
	if !p.onlyCaptured {
		withProxy = b.try(t, p, allowedHost, true)
		if !withProxy {
			t.Errorf("%s did not reach the allowed host through the proxy variables", p.name)
		}
	}
	captured := b.try(t, p, allowedHost, false)
	if !captured {
		t.Errorf("%s did not reach the allowed host without proxy variables", p.name)
	}
	for _, proxy := range []bool{true, false} {
		if b.try(t, p, deniedHost, proxy) {
			t.Errorf("%s reached the denied host (proxy variables: %v)", p.name, proxy)
		}
	}
	return fmt.Sprintf("| %s | %s | %s | refused |\n", p.name, mark(withProxy), mark(captured))
}

// try runs the row's script as the agent and says whether it got through.
func (b *bench) try(t *testing.T, p program, host string, proxy bool) bool {
	t.Helper()
	work, err := os.MkdirTemp(b.dir, "work-")
	fatal(t, err)
	fatal(t, os.Chmod(work, 0o777))
	ca, err := os.ReadFile(filepath.Join(b.dir, "ca.pem"))
	fatal(t, err)
	fatal(t, os.WriteFile(filepath.Join(work, "ca.pem"), ca, 0o644))
	fatal(t, os.WriteFile(filepath.Join(work, "Get.java"), []byte(javaGet), 0o644))
	if p.needs[0] == "java" {
		out, err := exec.Command("keytool", "-importcert", "-noprompt", "-alias", "t", "-file", work+"/ca.pem", "-keystore", work+"/trust.p12", "-storetype", "PKCS12", "-storepass", "changeit").CombinedOutput()
		if err != nil {
			t.Fatalf("keytool: %v\n%s", err, out)
		}
		fatal(t, os.Chmod(work+"/trust.p12", 0o644))
	}
	script := strings.NewReplacer("HOST", host, "WORK", work).Replace(p.script)
	if !proxy {
		script = "unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy NODE_USE_ENV_PROXY; " + script
	}
	pem := work + "/ca.pem"
	args := []string{"run", "--policy", b.policy, "--workdir", work, "--resolve", allowedHost + "=" + allowedAddr, "--resolve", deniedHost + "=" + deniedAddr}
	for _, kv := range []string{
		"CURL_CA_BUNDLE=" + pem, "GIT_SSL_CAINFO=" + pem, "SSL_CERT_FILE=" + pem, "NODE_EXTRA_CA_CERTS=" + pem, "CARGO_HTTP_CAINFO=" + pem,
		"HOME=" + work, "GOPATH=" + work + "/gopath", "GOCACHE=" + work + "/gocache", "GOMODCACHE=" + work + "/modcache", "GOTOOLCHAIN=local",
		"CARGO_HOME=" + work + "/cargo", "npm_config_cache=" + work + "/npm", "PATH=" + b.path,
	} {
		args = append(args, "--env", kv)
	}
	cmd := exec.Command(b.bin, append(args, "--", "sh", "-c", script)...)
	out, err := cmd.CombinedOutput()
	got := err == nil && strings.Contains(string(out), p.want)
	if got != (host == allowedHost) {
		t.Logf("%s, proxy variables %v: %v\n%s", host, proxy, err, out)
	}
	if host == deniedHost && !got && !strings.Contains(string(out), "denied") {
		t.Errorf("%s was refused %s without a line that says so:\n%s", p.name, host, out)
	}
	return got
}
