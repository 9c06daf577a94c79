// Package programs runs real programs as agents, against real servers on
// another host. Each program reaches an allowed host and is refused a denied
// one, once with the usual proxy variables and once without knowing of any
// proxy.
//
// The other host is a network namespace that the test makes, so that its
// addresses are nobody's own; this needs root. What is not installed is skipped
// with a reason.
package programs

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/testkit"
	"sallyport/test/programs/resolvers"
)

// The names of the tests and the addresses behind them. They are a test
// network's, so that a policy has to allow them by allowed_ips.
const (
	allowedHost = "allowed.example"
	deniedHost  = "denied.example"
	insideHost  = "inside.example" // allowed, but leads to a refused address
	ownAddr     = "203.0.113.1"
	allowedAddr = "203.0.113.10"
	deniedAddr  = "203.0.113.11"
	namesAddr   = "203.0.113.53"
)

const policyTemplate = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [READABLE]
  read_write: [/dev/null, /tmp]
network_policies:
  web:
    endpoints:
      - {host: allowed.example, ports: [80, 443], allowed_ips: [203.0.113.0/24]}
      - {host: inside.example, port: 80}
      - {host: allowed.example, port: 22, protocol: tcp, allowed_ips: [203.0.113.0/24]}
      - {host: allowed.example, port: 5432, protocol: tcp, allowed_ips: [203.0.113.0/24]}
      - {host: allowed.example, port: 6379, protocol: tcp, allowed_ips: [203.0.113.0/24]}
    binaries: [{path: "/**"}]
`

// readable are the directories of the system that programs need; those that this
// host does not have are left out.
var readable = strings.Fields("/usr /bin /sbin /lib /lib64 /etc /proc /opt /sys/fs/cgroup /sys/devices/system/cpu /sys/kernel/mm /dev/urandom /dev/random /var/lib/dpkg")

// scene is what the runs of one test share: the program under test, and a host
// with servers beside this one.
type scene struct {
	dir, bin string
	policy   string // file
	path     string // the agent's PATH
	ca       []byte // what the agent trusts; nil: what sallyport gives it
	names    *nameServer
	wire     *resolvers.Wire
	n        *testkit.Neighbour
	as       *syscall.Credential // who starts sallyport; nil: root
}

// inScene runs f beside the other host.
func inScene(t *testing.T, f func(t *testing.T, s *scene)) {
	t.Helper()
	if *update {
		t.Setenv(updateVar, "1")
	}
	testkit.WithNeighbour(t, func(t *testing.T, n *testkit.Neighbour) {
		dir, err := testkit.PublicDir(t)
		fatal(t, err)
		s := &scene{dir: dir, bin: filepath.Join(dir, "sallyport"), n: n, path: "/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin"}
		build(t, s.bin, "sallyport/cmd/sallyport")
		addr := netip.MustParseAddr(allowedAddr)
		s.names = serveNames(t, n, namesAddr, map[string]netip.Addr{
			allowedHost: addr, deniedHost: netip.MustParseAddr(deniedAddr), insideHost: netip.MustParseAddr("10.1.2.3"),
		})
		s.wire = resolvers.Watch(t, n.Do, "allowed", "denied")
		testkit.UseResolver(t, namesAddr)
		s.policy = s.writePolicy(t, "policy.yaml", policyTemplate)
		f(t, s)
	}, ownAddr+"/24", allowedAddr+"/24", deniedAddr+"/24", namesAddr+"/24")
}

func build(t *testing.T, to, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
}

// writePolicy writes a policy with READABLE filled in.
func (s *scene) writePolicy(t *testing.T, name, text string) string {
	t.Helper()
	dirs := []string{s.dir}
	for _, d := range readable {
		if _, err := os.Stat(d); err == nil {
			dirs = append(dirs, d)
		}
	}
	file := filepath.Join(s.dir, name)
	fatal(t, os.WriteFile(file, []byte(strings.ReplaceAll(text, "READABLE", strings.Join(dirs, ", "))), 0o644))
	return file
}

// work makes a working directory that the agent owns.
func (s *scene) work(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(s.dir, "work-")
	fatal(t, err)
	fatal(t, os.WriteFile(filepath.Join(dir, "ca.pem"), s.ca, 0o644))
	fatal(t, os.Chown(dir, testkit.NobodyID, testkit.NobodyID))
	return dir
}

// outcome is how a run ended.
type outcome struct {
	status int
	out    string // of the program, both streams
	told   string // what sallyport said
	took   time.Duration
}

// runLimit ends a run that hangs.
const runLimit = 90 * time.Second

// slots lets two programs run at a time: most of them wait most of the time.
var slots = make(chan struct{}, 3)

// run runs a shell script as the agent. Flags are for sallyport.
func (s *scene) run(t *testing.T, work, script string, flags ...string) outcome {
	t.Helper()
	slots <- struct{}{}
	defer func() { <-slots }()
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, s.args(work, script, flags)...)
	cmd.Env, cmd.SysProcAttr = []string{"PATH=" + s.path}, &syscall.SysProcAttr{Credential: s.as}
	cmd.WaitDelay = 5 * time.Second
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	start := time.Now()
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Errorf("%s: still running after %v", script, runLimit)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return split(outcome{status: cmd.ProcessState.ExitCode(), out: b.String(), took: time.Since(start)})
}

func (s *scene) args(work, script string, flags []string) []string {
	args := append([]string{"run", "--mode", "platform", "--policy", s.policy, "--workdir", work}, flags...)
	env := []string{
		"HOME=" + work, "GOPATH=" + work + "/gopath", "GOCACHE=" + work + "/gocache", "GOMODCACHE=" + work + "/modcache", "GOTOOLCHAIN=local",
		"CARGO_HOME=" + work + "/cargo", "npm_config_cache=" + work + "/npm", "PATH=" + s.path,
	}
	if s.ca != nil {
		for _, name := range strings.Fields("CURL_CA_BUNDLE GIT_SSL_CAINFO SSL_CERT_FILE NODE_EXTRA_CA_CERTS CARGO_HTTP_CAINFO npm_config_cafile") {
			env = append(env, name+"="+work+"/ca.pem")
		}
	}
	for _, kv := range env {
		args = append(args, "--env", kv)
	}
	return append(args, "--", "sh", "-c", strings.NewReplacer("WORK", work, "TOOLS", s.dir).Replace(script))
}

// unset takes the way to the proxy out of a program's environment.
const unset = "unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy grpc_proxy NO_PROXY no_proxy NODE_USE_ENV_PROXY; "

// split parts what the program said from what sallyport said.
func split(o outcome) outcome {
	var said, told []string
	for l := range strings.Lines(o.out) {
		if strings.HasPrefix(l, "sallyport:") {
			told = append(told, l)
		} else {
			said = append(said, l)
		}
	}
	o.out, o.told = strings.Join(said, ""), strings.Join(told, "")
	return o
}

func (o outcome) String() string {
	return fmt.Sprintf("status %d after %v\n%s%s", o.status, o.took.Round(time.Millisecond), o.out, o.told)
}

// requireAll skips a test whose programs are not in the agent's PATH.
func (s *scene) requireAll(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		testkit.Require(t, testkit.Requirement{Name: n, Check: func() error { return s.installed(n) }})
	}
}

func (s *scene) installed(name string) error {
	for d := range strings.SplitSeq(s.path, ":") {
		if _, err := os.Stat(filepath.Join(d, name)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s is not installed in %s", name, s.path)
}

// toolchain links Rust's own directory, which rustup keeps in a home that the
// agent cannot enter, into the scene.
var toolchain = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("rustc", "--print", "sysroot").Output()
	return strings.TrimSpace(string(out)), err
})

func (s *scene) linkRust(t *testing.T) {
	root, err := toolchain()
	if err != nil || strings.HasPrefix(root, "/usr") {
		return // the distribution's, or none
	}
	to := filepath.Join(s.dir, "rust")
	if out, err := exec.Command("cp", "-al", root, to).CombinedOutput(); err != nil {
		t.Fatalf("linking the toolchain: %v\n%s", err, out)
	}
	s.path = filepath.Join(to, "bin") + ":" + s.path
}
