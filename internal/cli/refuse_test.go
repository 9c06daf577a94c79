package cli

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/seccomp"
	"sallyport/internal/testkit"
)

// without runs a program on a kernel that does not have a system call: the
// filter answers as such a kernel does.
func without(call string, argv []string) int {
	runtime.LockOSThread()
	p, err := seccomp.Compile(seccomp.Native, []seccomp.Rule{{Name: call, Calls: []string{call}, Do: seccomp.Errno(unix.ENOSYS), Why: "an older kernel"}}, seccomp.Allow)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if err == nil {
		_, err = seccomp.Load(seccomp.Filter(p), 0)
	}
	var path string
	if err == nil {
		path, err = exec.LookPath(argv[0])
	}
	if err == nil {
		err = syscall.Exec(path, argv, os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 99
}

// refusal is one start that has to fail. In the arguments DIR is the working
// directory and PORT a port of 127.0.0.1 that is taken.
type refusal struct {
	name    string
	before  []string // what sallyport is started by
	exe     string   // sallyport itself, if not the one in PATH
	run     []string // arguments of sallyport run
	policy  string
	says    string // a regular expression that a line of ours matches
	skip    func(t *testing.T)
	started bool // the agent starts, and is ended
}

const onlyFiles = "version: 1\nfilesystem_policy: {include_workdir: true, read_only: [/usr, /bin, /lib, /lib64, /etc%s]}\n"

func refusals() []refusal {
	touch := []string{"--", "sh", "-c", "touch started"}
	with := func(flags ...string) []string { return append(flags, touch...) }
	root := func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root, to make the surroundings")
		}
	}
	return []refusal{
		{name: "workdir that nobody may enter", run: with("--workdir", "DIR/closed"), says: `working directory`},
		{name: "workdir that is a file", run: with("--workdir", "DIR/file"), says: `DIR/file: not a directory$`},
		{name: "port taken", run: with("--proxy-port", "PORT"), says: `proxy port PORT on 127.0.0.1 is taken$`},
		{name: "kernel without Landlock", before: []string{"without", "landlock_create_ruleset"}, run: touch, says: `this kernel has no Landlock, so files cannot be held(;|$)`},
		{name: "kernel without seccomp", before: []string{"without", "seccomp"}, run: touch, says: `seccomp user notification is not available`},
		{name: "nested", before: []string{"sallyport", "run", "--mode", "platform", "--policy", "DIR/policy.yaml", "--"}, policy: fmt.Sprintf(onlyFiles, ", /proc"), exe: "DIR/sallyport", run: touch,
			says: `(seccomp notification cannot be nested|seccomp user notification is not available)`},
		{name: "limit of processes", before: []string{"sh", "-c", `echo $$ > "$CGROUP/cgroup.procs" && exec "$@"`, "sh"}, run: touch, says: `no process can be made: the limit of processes is 12 `, skip: root},
		{name: "disk full", run: with("--events", "/dev/full"), says: `events cannot be written: .*no space left on device$`},
		// Who reads them goes away behind the start of the supervisor and of the agent.
		{name: "events end", before: []string{"bash", "-c", `exec 3> >(cd / && exec head -n 2 >/dev/null) && exec "$@"`, "bash"},
			run:  []string{"--events", "/dev/fd/3", "--", "sh", "-c", "touch started; while :; do curl -sm 5 http://192.0.2.1/; done"},
			says: `events could not be written, so the sandbox was ended: .*broken pipe$`, started: true},
		{name: "missing path", policy: fmt.Sprintf(onlyFiles, ", /nonexistent/tools"), run: with("--policy", "DIR/policy.yaml"), says: `/nonexistent/tools: does not exist$`},
	}
}

// Bad surroundings: a sentence, 125, nothing half started and nothing left.
func TestRefusals(t *testing.T) {
	for _, r := range refusals() {
		t.Run(strings.ReplaceAll(r.name, " ", "_"), func(t *testing.T) {
			if r.skip != nil {
				r.skip(t)
			}
			dir := agentDir(t)
			fill := surroundings(t, dir)
			if r.policy != "" {
				if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(fill(r.policy)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			exe := "sallyport"
			if r.exe != "" {
				exe = r.exe
			}
			argv := slices.Concat(r.before, []string{exe, "run", "--mode", "platform"}, r.run)
			for i := range argv {
				argv[i] = fill(argv[i])
			}
			out, status := start(t, dir, argv)
			if status != 125 {
				t.Errorf("status %d, want 125", status)
			}
			if says := regexp.MustCompile(`(?m)^sallyport: .*` + fill(r.says)); !says.MatchString(out) {
				t.Errorf("no line matches %v", says)
			}
			if strings.Contains(out, "goroutine ") || strings.Contains(out, "panic") {
				t.Error("a stack trace is no sentence")
			}
			nothingLeft(t, dir, r.started)
			if t.Failed() {
				t.Logf("%q\n%s", argv, out)
			}
		})
	}
}

// Under best_effort a missing path voids only itself, and is told.
func TestMissingPathBestEffort(t *testing.T) {
	dir := agentDir(t)
	policy := fmt.Sprintf(onlyFiles, ", /nonexistent/tools") + "landlock: {compatibility: best_effort}\n"
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	events := filepath.Join(dir, "events")
	out, status := start(t, dir, []string{"sallyport", "run", "--mode", "platform", "--policy", dir + "/policy.yaml", "--events", events, "--", "sh", "-c", "echo ran; ls /root"})
	if status == 0 || !strings.Contains(out, "ran\n") || !strings.Contains(out, "ermission denied") {
		t.Errorf("status %d, want a program that ran and could not read /root\n%s", status, out)
	}
	if !regexp.MustCompile(`(?m)^sallyport: /nonexistent/tools: .*void`).MatchString(out) {
		t.Errorf("nothing says that the path is void:\n%s", out)
	}
	if b, err := os.ReadFile(events); err != nil || !bytes.Contains(b, []byte("/nonexistent/tools")) {
		t.Errorf("events hold no finding: %v\n%s", err, b)
	}
}

// agentDir is a directory that the agent can use, whoever it is.
func agentDir(t *testing.T) string {
	t.Helper()
	dir, err := testkit.PublicDir(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// surroundings makes what the refusals run into, and gives a func that puts its
// names into a text.
func surroundings(t *testing.T, dir string) (fill func(string) string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	self, err := exec.LookPath("sallyport")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testkit.CopyExecutable(dir, self); err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("DIR", dir, "PORT", port).Replace
}

func start(t *testing.T, dir string, argv []string) (out string, status int) {
	t.Helper()
	var b bytes.Buffer
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &b, &b
	cmd.WaitDelay = time.Minute // whoever is left holds the pipe
	cmd.Env = append(os.Environ(), "HOME="+dir, "CGROUP="+smallCgroup(t, argv))
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// smallCgroup makes a cgroup with room for twelve tasks, if the command asks for
// one.
func smallCgroup(t *testing.T, argv []string) string {
	if !strings.Contains(strings.Join(argv, " "), "CGROUP") {
		return ""
	}
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		dir := filepath.Join(root, "sallyport-test-"+strconv.Itoa(os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			for end := time.Now().Add(time.Minute); os.Remove(dir) != nil && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		})
		if os.WriteFile(filepath.Join(dir, "pids.max"), []byte("12"), 0) == nil {
			return dir
		}
	}
	t.Skip("no cgroup with a limit of processes can be made here")
	return ""
}

// nothingLeft looks for processes of the sandbox and for a file that its agent
// would have made.
func nothingLeft(t *testing.T, dir string, started bool) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(dir, "started")); !started && err == nil {
		t.Error("the agent was started")
	}
	cwds, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, c := range cwds {
		if at, err := os.Readlink(c); err == nil && strings.HasPrefix(at, dir) {
			t.Errorf("%s is alive in %s", c, at)
		}
	}
}
