package testkit

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childVar names the test that a re-executed test binary is to run in full.
const childVar = "SALLYPORT_TESTKIT_CHILD"

// subprocessLimit ends a child that hangs before the test binary's own timeout
// does, so that the message names the test.
const subprocessLimit = 10 * time.Minute

// RunInSubprocess runs f in a copy of the test binary that runs nothing but
// this test, because what f does cannot be undone: it restricts the process,
// kills it, or changes who it is. A failure there is a failure here. The
// options change the child before it starts, and what they do to their thread
// the child inherits.
func RunInSubprocess(t *testing.T, f func(t *testing.T), options ...func(*exec.Cmd) error) {
	t.Helper()
	if os.Getenv(childVar) == t.Name() {
		f(t)
		return
	}
	if os.Getenv(childVar) != "" {
		return // a child on its way to another subtest
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run="+pattern(t.Name()), "-test.count=1", "-test.v=true", "-test.timeout="+subprocessLimit.String())
	cmd.Env = append(os.Environ(), childVar+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Minute // what it has started and is about to end holds the pipe
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = OnOwnThread(func() error {
		for _, o := range options {
			if err := o(cmd); err != nil {
				return err
			}
		}
		return cmd.Run()
	})
	switch said := out.String(); {
	case err != nil:
		t.Errorf("in the subprocess: %v\n%s", err, said)
	case strings.Contains(said, "--- SKIP: "+t.Name()+" ("):
		t.Skipf("in the subprocess:\n%s", said)
	case !strings.Contains(said, "--- PASS: "+t.Name()+" ("):
		t.Errorf("the subprocess did not run this test:\n%s", said)
	default:
		t.Logf("in the subprocess:\n%s", said) // with -v: what was skipped there
	}
}

// OnOwnThread runs f on a thread that ends with it, so that what f does to its
// thread stays with the children it starts. It is never the first thread, which
// /proc/self describes and which cannot end.
func OnOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- OnOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// pattern selects exactly one test, subtests included.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// NobodyID is the uid and gid of Nobody.
const NobodyID = 65534

// Nobody runs f in a subprocess as uid and gid 65534 with empty capability sets
// and no_new_privs. It needs root; without it the test runs as who it is, which
// is somebody without privilege already.
func Nobody(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	noNewPrivs := func(*exec.Cmd) error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }
	if os.Geteuid() != 0 {
		RunInSubprocess(t, f, noNewPrivs)
		return
	}
	RunInSubprocess(t, f, noNewPrivs, func(cmd *exec.Cmd) error {
		dir, err := PublicDir(t)
		if err != nil {
			return err
		}
		if cmd.Path, err = CopyExecutable(dir, cmd.Path); err != nil {
			return err
		}
		cmd.Env = append(cmd.Env, "TMPDIR="+dir, "HOME="+dir)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: NobodyID, Gid: NobodyID}
		return os.Chmod(dir, 0o1777)
	})
}

// PublicDir is like TempDir, but other users can reach it. It goes with the test.
func PublicDir(t testing.TB) (string, error) {
	dir, err := os.MkdirTemp("/tmp", "testkit-")
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir, os.Chmod(dir, 0o755)
}

// CopyExecutable puts a copy of the program into dir, where everybody can run
// it: a test binary lies in a directory of root's own. It returns its path.
func CopyExecutable(dir, program string) (string, error) {
	to := filepath.Join(dir, filepath.Base(program))
	if os.Link(program, to) == nil {
		return to, nil
	}
	in, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", fmt.Errorf("testkit: copying %s: %w", program, err)
	}
	return to, nil
}
