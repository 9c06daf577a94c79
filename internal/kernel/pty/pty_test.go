package pty

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// user opens a pseudo-terminal that plays the user's: what the test writes to
// the keyboard is typed, what it reads from it is shown.
func user(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	m, s, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(); s.Close() })
	return m, s
}

func run(t *testing.T, r *Relay, script string) *exec.Cmd {
	t.Helper()
	c := exec.Command("sh", "-c", script)
	c.Stdin, c.Stdout, c.Stderr = r.Slave, r.Slave, r.Slave
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	r.Started()
	return c
}

func TestRelayCopiesAndRestores(t *testing.T) {
	keyboard, terminal := user(t)
	if err := pty.Setsize(keyboard, &pty.Winsize{Rows: 41, Cols: 123}); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(terminal, terminal)
	if err != nil {
		t.Fatal(err)
	}
	c := run(t, r, `stty size; read line; echo "got $line"; tty`)
	keyboard.Write([]byte("hello\r"))
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	out := shown(keyboard)
	for _, want := range []string{"41 123", "got hello", "/dev/pts/"} {
		if !strings.Contains(out, want) {
			t.Errorf("output %q lacks %q", out, want)
		}
	}
	after, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal was not put back: %+v, want %+v (%v)", after, before, err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

// shown reads what has been written to the terminal so far: Close has copied
// everything before it returned.
func shown(keyboard *os.File) string {
	fd := int(keyboard.Fd())
	unix.SetNonblock(fd, true)
	var out []byte
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, b)
		if n <= 0 || err != nil {
			return string(out)
		}
		out = append(out, b[:n]...)
	}
}

func TestOpenNeedsATerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if IsTerminal(f) {
		t.Error("/dev/null is taken for a terminal")
	}
	if r, err := Open(f, f); err == nil {
		r.Close()
		t.Error("Open succeeded on /dev/null")
	}
	if term.IsTerminal(-1) {
		t.Error("descriptor -1 is a terminal")
	}
}

// reads collects what is shown on the user's terminal until it contains want.
func reads(t *testing.T, keyboard *os.File, want string) {
	t.Helper()
	var out []byte
	b := make([]byte, 4096)
	for !strings.Contains(string(out), want) {
		n, err := keyboard.Read(b)
		if err != nil {
			t.Fatalf("output %q, then %v, want %q", out, err, want)
		}
		out = append(out, b[:n]...)
	}
}

// TestRelayFollowsSize changes the size of the user's window.
func TestRelayFollowsSize(t *testing.T) {
	keyboard, terminal := user(t)
	r, err := Open(terminal, terminal)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := run(t, r, `trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.02; done`)
	reads(t, keyboard, "up")
	if err := pty.Setsize(keyboard, &pty.Winsize{Rows: 17, Cols: 71}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	reads(t, keyboard, "17 71")
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestRelayLetsGo: what is typed after the end belongs to the next program.
func TestRelayLetsGo(t *testing.T) {
	keyboard, terminal := user(t)
	r, err := Open(terminal, terminal)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t, r, `:`).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	keyboard.Write([]byte("next\n"))
	b := make([]byte, 64)
	if n, err := terminal.Read(b); err != nil || string(b[:n]) != "next\n" {
		t.Errorf("the next program reads %q, %v", b[:n], err)
	}
}

// TestRelayStaysNot: a process that keeps the agent's terminal open does not
// keep the user's.
func TestRelayStaysNot(t *testing.T) {
	_, terminal := user(t)
	r, err := Open(terminal, terminal)
	if err != nil {
		t.Fatal(err)
	}
	r.drain = 10 * time.Millisecond
	held, err := os.OpenFile(r.Slave.Name(), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := run(t, r, `:`).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// TestRelayHangup: the user's terminal goes away.
func TestRelayHangup(t *testing.T) {
	keyboard, terminal := user(t)
	r, err := Open(terminal, terminal)
	if err != nil {
		t.Fatal(err)
	}
	r.drain = 10 * time.Millisecond
	c := run(t, r, `read line`)
	keyboard.Close()
	r.Close() // ends the agent's terminal, and says that the user's could not be put back
	c.Wait()
}
