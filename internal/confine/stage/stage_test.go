package stage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// launch runs argv in a stage without walls and returns the process and what it
// printed, once it has ended.
func launch(t *testing.T, change func(*Spec), argv ...string) (*Process, func() string) {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Skipf("needs %s: %v", argv[0], err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s := Spec{Path: path, Args: argv, Env: os.Environ(), Dir: "/", Stdio: [3]*os.File{null, w, w}, Ruleset: -1, GuardRuleset: -1, Umask: 0o22}
	if change != nil {
		change(&s)
	}
	p, err := Start(s)
	w.Close()
	if err != nil {
		r.Close()
		t.Fatal(err)
	}
	return p, func() string {
		b, _ := io.ReadAll(r)
		r.Close()
		return string(b)
	}
}

// ownStatus is a line of this process's /proc/self/status.
func ownStatus(t *testing.T, key string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if strings.HasPrefix(l, key+":") {
			return l
		}
	}
	t.Fatalf("no %s in /proc/self/status", key)
	return ""
}

func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		exit         int
		signal       syscall.Signal
		out          string
	}{
		{"success", "echo hi", 0, 0, "hi\n"},
		{"exit status", "exit 7", 7, 0, ""},
		{"signal", "kill -9 $$", 0, syscall.SIGKILL, ""},
		{"no descriptors but three", "ls /proc/self/fd | tr '\\n' ' '", 0, 0, "0 1 2 3 "}, // 3 is ls reading the directory
		{"own session", "ps -o sid= -p $$ | tr -d ' ' | grep -qx $$ && echo yes", 0, 0, "yes\n"},
		{"no_new_privs", "grep NoNewPrivs /proc/self/status", 0, 0, "NoNewPrivs:\t1\n"},
		{"no signal blocked", "grep SigBlk /proc/self/status", 0, 0, "SigBlk:\t0000000000000000\n"},
		// What nohup(1) or a posix_spawn(3) of glibc ignored stays so.
		{"the caller's signals ignored", "grep SigIgn /proc/self/status", 0, 0, ownStatus(t, "SigIgn")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, out := launch(t, nil, "sh", "-c", tt.script)
			got := out()
			st, err := p.Wait()
			if err != nil {
				t.Fatal(err)
			}
			if tt.signal != 0 && (!st.Signaled() || st.Signal() != tt.signal) {
				t.Errorf("status = %#x, want signal %v", st, tt.signal)
			}
			if tt.signal == 0 && st.ExitStatus() != tt.exit {
				t.Errorf("exit = %d, want %d", st.ExitStatus(), tt.exit)
			}
			if got != tt.out {
				t.Errorf("output = %q, want %q", got, tt.out)
			}
		})
	}
}

func TestExecErrorIsNamed(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	_, err = Start(Spec{Path: "/nonexistent/program", Args: []string{"x"}, Dir: "/", Stdio: [3]*os.File{null, null, null}, Ruleset: -1, GuardRuleset: -1})
	var step *StepError
	if !errors.As(err, &step) || step.Step != StepExec || step.Errno != syscall.ENOENT {
		t.Fatalf("Start = %v, want an execve error with ENOENT", err)
	}
	_, err = Start(Spec{Path: "/bin/true", Args: []string{"x"}, Dir: "/nonexistent", Stdio: [3]*os.File{null, null, null}, Ruleset: -1, GuardRuleset: -1})
	if !errors.As(err, &step) || step.Step != StepDir || !strings.Contains(err.Error(), "working directory") {
		t.Fatalf("Start = %v, want the step that enters the working directory", err)
	}
}

// The tree below the agent ends with it, whatever sessions it made.
func TestTreeEndsWithAgent(t *testing.T) {
	p, out := launch(t, nil, "sh", "-c", "setsid sh -c 'sleep 1000 >/dev/null 2>&1 & echo $!'; exit 3")
	pid := strings.TrimSpace(out())
	st, err := p.Wait()
	if err != nil || st.ExitStatus() != 3 {
		t.Fatalf("Wait = %v, %v", st.ExitStatus(), err)
	}
	if _, err := os.Stat("/proc/" + pid); pid == "" || err == nil {
		t.Errorf("process %q lives on", pid)
	}
}

// A start that fails behind execve leaves nothing of what the agent has started.
func TestAbortLeavesNothing(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	line, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and ends with it, as the thread of Start
		p, err := start(Spec{
			Path: "/bin/sh", Args: []string{"sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000'"}, Env: os.Environ(), Dir: "/",
			Stdio: [3]*os.File{null, w, null}, Ruleset: -1, GuardRuleset: -1,
		})
		w.Close()
		if err == nil {
			text, _ := bufio.NewReader(r).ReadString('\n')
			line <- strings.TrimSpace(text)
			p.abort()
		}
		ended <- err
	}()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(<-line)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("process %d lives on: %v", pid, err)
		unix.Kill(pid, unix.SIGKILL)
	}
}

// A guard that is killed before the agent is tied to it leaves no agent: that one
// looks, and ends.
func TestAgentNeedsItsGuard(t *testing.T) {
	gate, open, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	defer open.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	// The agent comes to this process, which collects it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	s := Spec{Path: "/bin/true", Args: []string{"true"}, Dir: "/", Stdio: [3]*os.File{null, null, null}, Ruleset: -1, GuardRuleset: -1}
	in, err := openInherited(s)
	defer in.close()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := in.raise(int(gate.Fd()), nil)
	if err != nil {
		t.Fatal(err)
	}
	prog, err := newProgram(s, in.src)
	if err != nil {
		t.Fatal(err)
	}
	wait := Step{Name: "waiting", Nr: unix.SYS_READ, Args: [6]uintptr{uintptr(fd), ptr(prog, new([8]byte)), 1}, Want: 1}
	prog.agent = slices.Insert(prog.agent, 0, wait)
	prog.calls = callsOf(prog.agent)
	prog.guardPID = &prog.calls[1+agentGuard].want

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock()
	guard, errno := fork(prog)
	syscall.ForkLock.Unlock()
	if errno != 0 {
		t.Fatal(errno)
	}
	in.closeChildEnds()
	agent := 0
	for end := time.Now().Add(time.Minute); agent == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", guard, guard))
		agent, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	unix.Kill(int(guard), unix.SIGKILL)
	wait4(int(guard))
	if agent == 0 {
		t.Fatal("the guard has made no agent")
	}
	open.Write([]byte{0})
	raw := make([]byte, 12)
	n, err := readFull(in.errRead, raw)
	wait4(agent)
	if err != nil || n != len(raw) {
		t.Fatalf("the agent went on without its guard: %d bytes, %v", n, err)
	}
	var step *StepError
	if err := prog.failure(raw); !errors.As(err, &step) || step.Step != "finding the guard alive" {
		t.Errorf("the agent ended with %v", err)
	}
}

func TestStopEndsSandbox(t *testing.T) {
	p, out := launch(t, nil, "sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1000; done")
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(time.Minute):
		t.Fatal("the sandbox did not end")
	}
	out()
	p.Wait()
}

// An argument vector larger than the kernel takes is an execve error, not a hang.
func TestHugeArguments(t *testing.T) {
	null, _ := os.Open(os.DevNull)
	defer null.Close()
	big := string(bytes.Repeat([]byte("x"), 4<<20))
	_, err := Start(Spec{Path: "/bin/true", Args: []string{"true", big}, Dir: "/", Stdio: [3]*os.File{null, null, null}, Ruleset: -1, GuardRuleset: -1})
	var step *StepError
	if !errors.As(err, &step) || step.Errno != unix.E2BIG {
		t.Fatalf("Start = %v, want E2BIG", err)
	}
}

func BenchmarkStart(b *testing.B) {
	null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	defer null.Close()
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			exec.Command("/bin/true").Run()
		}
	})
	b.Run("stage", func(b *testing.B) {
		for b.Loop() {
			p, err := Start(Spec{Path: "/bin/true", Args: []string{"true"}, Dir: "/", Stdio: [3]*os.File{null, null, null}, Ruleset: -1, GuardRuleset: -1})
			if err != nil {
				b.Fatal(err)
			}
			p.Wait()
		}
	})
}
