package pod

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/seccomp"
	"sallyport/internal/testkit"
)

// TestMain lets this test binary be the supervisor that the tests start.
func TestMain(m *testing.M) {
	if place := os.Getenv("POD_TEST_LACKING"); place != "" {
		enterLacking(place)
	}
	if os.Getenv("POD_TEST") != "" {
		os.Unsetenv("POD_TEST")
		os.Exit(Main(context.Background(), Streams{os.Stdin, os.Stdout, os.Stderr}, os.Args, os.Environ()))
	}
	os.Exit(m.Run())
}

// bed is a directory that stands for a pod's volumes.
type bed struct {
	dir, exe string
	config   map[string]any
}

// newBed has a writable working directory, a policy that reads the system, and
// a file for the termination message, as a kubelet makes it.
func newBed(t *testing.T) *bed {
	t.Helper()
	dir, err := testkit.PublicDir(t)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := testkit.CopyExecutable(dir, self)
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{dir, exe, map[string]any{"workdir": dir + "/work", "policy": dir + "/policy.yaml", "termination": dir + "/termination-log"}}
	for _, d := range []string{"work", "own", "own/secrets"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/work", 0o777); err != nil {
		t.Fatal(err)
	}
	b.write(t, "termination-log", "")
	if err := os.Chmod(dir+"/termination-log", 0o666); err != nil {
		t.Fatal(err)
	}
	b.write(t, "policy.yaml", "version: 1\nfilesystem_policy: {include_workdir: true, read_only: [/usr, /bin, /lib, /lib64, /etc, /proc], read_write: [/dev/null]}\n")
	return b
}

func (b *bed) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// command is the supervisor, as the platform would start it: as an arbitrary
// user of group 0 where the test may choose, and as the caller elsewhere.
func (b *bed) command(t *testing.T, command ...string) *exec.Cmd {
	t.Helper()
	raw, err := json.Marshal(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "config.json", string(raw))
	return b.start(append([]string{"run", "--config", b.dir + "/config.json", "--"}, command...)...)
}

func (b *bed) start(args ...string) *exec.Cmd {
	c := exec.Command(b.exe, args...)
	c.Env = []string{"POD_TEST=1", "PATH=/usr/bin:/bin", "HOME=" + b.dir + "/work"}
	c.Dir = b.dir
	if os.Getuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000680000, Gid: 0}}
	}
	return c
}

// result is how a supervisor ended.
type result struct {
	stdout, stderr, termination string
	status                      int
}

func (b *bed) finish(t *testing.T, c *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	reason, err := os.ReadFile(b.dir + "/termination-log")
	if err != nil {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), string(reason), c.ProcessState.ExitCode()}
}

func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		script string
		want   int
	}{{"exit 0", 0}, {"exit 7", 7}, {"kill -KILL $$", 137}, {"exit 125", 125}} {
		b := newBed(t)
		got := b.finish(t, b.command(t, "sh", "-c", tt.script))
		if got.status != tt.want || got.termination != "" {
			t.Errorf("%q: %+v, want status %d and no reason of ours", tt.script, got, tt.want)
		}
	}
}

// TestRefusals: a fault ends with 125 and one line that says what and what to
// do, in the log and in the termination message, and nothing runs.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		break_ func(t *testing.T, b *bed)
		want   []string
	}{
		"a broken policy": {func(t *testing.T, b *bed) { b.write(t, "policy.yaml", "version: 1\nnetwrk: {}\nfoo: 1\n") },
			[]string{"policy.yaml:2:1", "sallyport policy check"}},
		"no policy file": {func(t *testing.T, b *bed) { os.Remove(b.dir + "/policy.yaml") }, []string{"no such file", "ConfigMap"}},
		"a mode that a pod cannot have": {func(t *testing.T, b *bed) {
			b.write(t, "policy.yaml", "version: 1\nnetwork_enforcement: namespace\nfilesystem_policy: {include_workdir: true, read_only: [/usr, /bin, /lib, /lib64, /etc]}\n")
		}, []string{"namespace", "; "}},
		"a run configuration that is none": {func(t *testing.T, b *bed) {
			b.config["run"] = b.dir + "/run.yaml"
			b.write(t, "run.yaml", "version: 1\nprovders: {}\n")
		}, []string{"run.yaml:2:1"}},
		"no secret directory": {func(t *testing.T, b *bed) { b.config["secrets"] = b.dir + "/own/absent" }, []string{"no such file", "Secret"}},
		"a missing Secret":    {func(t *testing.T, b *bed) { b.config["secrets"] = b.dir + "/own/secrets" }, []string{"is empty", "kubectl create secret"}},
		"a policy that grants the Secret": {func(t *testing.T, b *bed) {
			b.write(t, "own/secrets/token", "s3cret")
			b.config["secrets"] = b.dir + "/own/secrets"
			b.write(t, "policy.yaml", "version: 1\nfilesystem_policy: {read_only: [/usr, "+b.dir+"/own]}\n")
		}, []string{"belongs to the supervisor", "narrower"}},
		"a grant by a link": {func(t *testing.T, b *bed) {
			b.config["private"] = []string{b.dir + "/own"}
			if err := os.Symlink(b.dir+"/own/secrets", b.dir+"/harmless"); err != nil {
				t.Fatal(err)
			}
			b.write(t, "policy.yaml", "version: 1\nfilesystem_policy: {read_only: [/usr, "+b.dir+"/harmless]}\n")
		}, []string{"belongs to the supervisor"}},
		"events where the agent writes": {func(t *testing.T, b *bed) { b.config["events"] = b.dir + "/work/events" }, []string{"belongs to the supervisor"}},
		"no working directory":          {func(t *testing.T, b *bed) { b.config["workdir"] = b.dir + "/absent" }, []string{"does not exist", "emptyDir"}},
		"an unwritable directory": {func(t *testing.T, b *bed) {
			if err := os.Chmod(b.dir+"/work", 0o555); err != nil {
				t.Fatal(err)
			}
		}, []string{"cannot write there", "fsGroup"}},
		"a port that is taken": {func(t *testing.T, b *bed) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			b.config["health"] = l.Addr().String()
		}, []string{"address already in use", "another port"}},
		"an unknown key": {func(t *testing.T, b *bed) { b.config["polcy"] = "x" }, []string{`"polcy" is unknown`}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.config["termination"] = b.dir + "/termination-log"
			tt.break_(t, b)
			c := b.command(t, "sh", "-c", "echo the agent ran")
			if name == "an unknown key" { // nothing of such a file is taken
				c.Env = append(c.Env, "SALLYPORT_TERMINATION="+b.dir+"/termination-log")
			}
			got := b.finish(t, c)
			if got.status != 125 || got.stdout != "" {
				t.Fatalf("%+v, want status 125 and nothing from the agent", got)
			}
			if name != "an unknown key" && (strings.Count(got.termination, "\n") != 1 || !strings.HasSuffix(got.stderr, got.termination)) {
				t.Errorf("termination message %q, want the last line of %q", got.termination, got.stderr)
			}
			for _, w := range tt.want {
				if !strings.Contains(got.stderr, w) {
					t.Errorf("%q lacks %q", got.stderr, w)
				}
			}
		})
	}
}

// lacking is a place that refuses system calls, as an older kernel or a stricter
// runtime would. It loads the filter and executes the supervisor behind it.
var lacking = map[string]struct {
	filter []unix.SockFilter
	want   []string
}{
	"no Landlock": {[]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_LANDLOCK_CREATE_RULESET, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}, []string{"Landlock", "CONFIG_SECURITY_LANDLOCK"}},
	"no listener": {[]unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SECCOMP, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 24}, // the second argument
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}, []string{"seccomp", ";"}},
}

// enterLacking never returns.
func enterLacking(place string) {
	runtime.LockOSThread()
	os.Unsetenv("POD_TEST_LACKING")
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		_, err = seccomp.Load(lacking[place].filter, 0)
	}
	if err == nil {
		err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	panic(err)
}

// TestMissingWall: where a wall cannot be built the agent does not start, and
// the reason names the wall and the remedy.
func TestMissingWall(t *testing.T) {
	for place, tt := range lacking {
		t.Run(place, func(t *testing.T) {
			b := newBed(t)
			c := b.command(t, "sh", "-c", "echo the agent ran")
			c.Env = append(c.Env, "POD_TEST_LACKING="+place)
			got := b.finish(t, c)
			if got.status != 125 || got.stdout != "" || strings.Count(got.termination, "\n") != 1 {
				t.Errorf("%+v, want 125, nothing from the agent, and one line", got)
			}
			for _, w := range tt.want {
				if !strings.Contains(got.termination, w) {
					t.Errorf("the reason %q lacks %q", got.termination, w)
				}
			}
		})
	}
}

// TestSecretIsHeld: the same user reads the Secret's file outside of the
// sandbox, and does not inside; nor does it find it in the supervisor.
func TestSecretIsHeld(t *testing.T) {
	b := newBed(t)
	b.write(t, "own/secrets/token", "s3cret")
	b.config["secrets"] = b.dir + "/own/secrets"
	const script = `cat "$0/own/secrets/token"; cat /proc/$PPID/environ | tr '\0' ' '; cat /proc/1/environ; ls -l /proc/$PPID/fd/; ls /proc/$PPID/root/; true`
	control := b.start()
	control.Path, control.Args = "/bin/sh", []string{"sh", "-c", script, b.dir}
	if got := b.finish(t, control); !strings.Contains(got.stdout, "s3cret") {
		t.Fatalf("control: %+v", got)
	}
	got := b.finish(t, b.command(t, "sh", "-c", script, b.dir))
	if strings.Contains(got.stdout, "s3cret") || strings.Contains(got.stdout, "POD_TEST") {
		t.Errorf("the agent read %q", got.stdout)
	}
	if n := strings.Count(got.stdout, "ermission denied"); n < 4 {
		t.Errorf("%d refusals, want at least 4: %q", n, got.stdout)
	}
}

// TestCredentials: a provider whose key is a file of the Secret gives the agent
// a placeholder.
func TestCredentials(t *testing.T) {
	b := newBed(t)
	b.write(t, "own/secrets/token", "s3cret-of-the-pod")
	b.write(t, "run.yaml", "version: 1\nproviders:\n  github: {source: {file: "+b.dir+"/own/secrets/token}}\n")
	b.config["secrets"], b.config["run"] = b.dir+"/own/secrets", b.dir+"/run.yaml"
	got := b.finish(t, b.command(t, "sh", "-c", "env"))
	if !strings.Contains(got.stdout, "\nGH_TOKEN=") || strings.Contains(got.stdout+got.stderr, "s3cret-of-the-pod") {
		t.Errorf("the agent's environment: %+v", got)
	}
}

// TestStreams: what the agent says is on standard output, all of it; standard
// error is the supervisor's, and its events are lines of JSON.
func TestStreams(t *testing.T) {
	b := newBed(t)
	b.config["events"] = "stderr"
	got := b.finish(t, b.command(t, "sh", "-c", `echo out; echo err >&2; echo '{"class_uid":1}' >&2; curl -s http://denied.example/`))
	if !strings.HasPrefix(got.stdout, "out\nerr\n") {
		t.Errorf("standard output %q", got.stdout)
	}
	var denials, lines int
	for line := range strings.Lines(got.stderr) {
		if !strings.HasPrefix(line, "{") {
			if !strings.HasPrefix(line, "sallyport: ") {
				t.Errorf("standard error has %q", line)
			}
			if strings.Contains(line, "denied") && strings.Contains(line, "denied.example") {
				lines++
			}
			continue
		}
		var e struct {
			Class       int    `json:"class_uid"`
			Disposition string `json:"disposition"`
			To          struct {
				Hostname string `json:"hostname"`
			} `json:"dst_endpoint"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if e.Class < 1000 {
			t.Errorf("a line of the agent among the events: %q", line)
		}
		if e.Disposition == "Blocked" && e.To.Hostname == "denied.example" {
			denials++
		}
	}
	if denials != 1 || lines != 1 {
		t.Errorf("%d events and %d lines of the denial, want one of each:\n%s", denials, lines, got.stderr)
	}
}

// running starts a supervisor whose agent says "started".
func (b *bed) running(t *testing.T, script string) (*exec.Cmd, io.Reader) {
	t.Helper()
	c := b.command(t, "sh", "-c", script)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); err != nil || line != "started\n" {
		t.Fatalf("the agent said %q, %v", line, err)
	}
	return c, r
}

func TestTermination(t *testing.T) {
	for name, tt := range map[string]struct {
		script, grace string
		want          int
	}{
		"the agent ends by itself": {"trap 'exit 42' TERM; echo started; while :; do sleep 0.05; done", "60s", 42},
		"the agent does not care":  {"trap '' TERM; echo started; while :; do sleep 0.05; done", "300ms", 137},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.config["grace"] = tt.grace
			c, _ := b.running(t, tt.script)
			begun := time.Now()
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			c.Wait()
			if got := c.ProcessState.ExitCode(); got != tt.want {
				t.Errorf("status %d, want %d", got, tt.want)
			}
			if tt.want == 137 && time.Since(begun) < 300*time.Millisecond {
				t.Errorf("killed after %v, before its grace was over", time.Since(begun))
			}
		})
	}
}

// reserve keeps a port until the test ends for who asks for it by number and with
// SO_REUSEADDR, as Go does: it is bound, and nobody listens. The kernel gives it to
// nobody by itself.
func reserve(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("127.0.0.1:", at.(*unix.SockaddrInet4).Port)
}

func TestProbes(t *testing.T) {
	b := newBed(t)
	b.config["health"] = reserve(t)
	url := "http://" + b.config["health"].(string)
	// the agent asks too, around the proxy and through it
	_, said := b.running(t, "echo started; while [ ! -e ask ]; do sleep 0.05; done; curl -s --noproxy '*' "+url+"/livez; curl -s "+url+"/livez; echo; echo asked; sleep 1000")
	// what the agent prints may come before the supervisor's own next step
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if code, _ := get(t, url+"/readyz"); code == 200 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the agent runs and the supervisor is not ready")
		}
	}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/": 404, "/livez/": 404} {
		if got, body := get(t, url+path); got != want {
			t.Errorf("%s: %d %s, want %d", path, got, body, want)
		}
	}
	b.write(t, "work/ask", "")
	for r := bufio.NewReader(said); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "ok\n" {
			t.Error("the agent reaches the probes")
		}
		if line == "asked\n" {
			break
		}
	}
	resp, err := http.Post(url+"/livez", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// TestProbesTellTheTruth: before the agent runs the supervisor is alive and not
// ready; when the gate hangs it is neither.
func TestProbesTellTheTruth(t *testing.T) {
	var h health
	if h.live() != nil || h.ready() == nil {
		t.Errorf("before the start: live %v, ready %v", h.live(), h.ready())
	}
	h.started(func() error { return nil })
	if h.live() != nil || h.ready() != nil {
		t.Errorf("held: live %v, ready %v", h.live(), h.ready())
	}
	h.started(func() error { return errors.New("the gate hangs") })
	if h.live() == nil || h.ready() == nil {
		t.Errorf("not held: live %v, ready %v", h.live(), h.ready())
	}
}

func TestCopySelf(t *testing.T) {
	b := newBed(t)
	b.config = nil
	if got := b.finish(t, b.start("copy-self", b.dir+"/work")); got.status != 0 {
		t.Fatalf("%+v", got)
	}
	c := exec.Command(b.dir+"/work/sallyport-supervisor", "version")
	c.Env = []string{"POD_TEST=1"}
	if out, err := c.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "sallyport-supervisor ") {
		t.Errorf("the copy says %q, %v", out, err)
	}
	if left, _ := filepath.Glob(b.dir + "/work/.*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if got := b.finish(t, b.start("copy-self", b.dir+"/own")); os.Getuid() == 0 && (got.status != 125 || !strings.Contains(got.stderr, "emptyDir")) {
		t.Errorf("a directory of somebody else: %+v", got)
	}
}

// TestReapsAsFirstProcess: orphans of programs that the platform starts in the
// container are collected, and the agent's status is not lost over it.
func TestReapsAsFirstProcess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making a pid namespace takes root")
	}
	for _, tool := range []string{"unshare", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	b := newBed(t)
	c := b.command(t, "sh", "-c", "echo started; while [ ! -e end ]; do sleep 0.05; done; exit 42")
	c.Path, c.Args = "/usr/bin/unshare", append([]string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--setuid", "1000680000"}, c.Args...)
	c.SysProcAttr = nil
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "started\n" {
		t.Fatalf("the agent said %q, %v", line, err)
	}
	kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.Process.Pid, c.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	first := strings.Fields(string(kids))[0]
	// the orphan's parent ends before it does; then the supervisor gets it, and has it until it is told to end
	enter := exec.Command("nsenter", "-t", first, "-p", "-m", "sh", "-c", `(while [ ! -e "$0" ]; do sleep 0.05; done; exit 3) >/dev/null 2>&1 </dev/null & (exit 0)`, b.dir+"/own/end")
	if out, err := enter.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	await := func(what string, n int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); childrenOf(t, first) != n; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("children of the supervisor: %d, want %s", childrenOf(t, first), what)
			}
		}
	}
	await("the guard and the orphan", 2)
	b.write(t, "own/end", "")
	await("the guard alone", 1)
	if err := os.WriteFile(b.dir+"/work/end", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	if got := c.ProcessState.ExitCode(); got != 42 {
		t.Errorf("status %d, want 42", got)
	}
}

// childrenOf counts the children of every thread of a process.
func childrenOf(t *testing.T, pid string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/" + pid + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err == nil {
			n += len(strings.Fields(string(raw)))
		}
	}
	return n
}
