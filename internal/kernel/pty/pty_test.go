package pty

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

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
