package supervisor

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/pty"
)

// terminal is what the agent has for standard input, output and error: the
// caller's own files, or, where they are a terminal, one that belongs to the
// agent's session alone.
type terminal struct {
	stdio [3]*os.File
	own   bool // stdio[0] becomes the agent's controlling terminal
	relay *pty.Relay
	null  *os.File
}

func openTerminal(o Options) (*terminal, error) {
	t := &terminal{stdio: [3]*os.File{o.Stdin, o.Stdout, o.Stderr}}
	var err error
	for i, name := range []string{"input", "output", "error"} {
		if err = aimless(t.stdio[i]); err != nil {
			return nil, refused("put a pipe in between (cat | sallyport run … | cat)", "standard %s: %w", name, err)
		}
	}
	if pty.IsTerminal(o.Stdin) {
		out := o.Stdout
		if !pty.IsTerminal(out) {
			out = o.Stdin
		}
		if t.relay, err = pty.Open(o.Stdin, out); err != nil {
			return nil, refused("", "terminal: %w", err)
		}
		t.own = true
	}
	for i, f := range t.stdio {
		switch {
		case t.relay != nil && pty.IsTerminal(f):
			t.stdio[i] = t.relay.Slave
		case f == nil:
			if t.null == nil {
				if t.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
					t.close()
					return nil, refused("", "terminal: %w", err)
				}
			}
			t.stdio[i] = t.null
		}
	}
	return t, nil
}

// aimless says why the caller's file must not become the agent's: a datagram socket
// obeys the name in any message, and sendmsg is not a notified call, because no
// socket that is made inside does. What a stream is connected to, the caller has chosen.
func aimless(f *os.File) error {
	if f == nil {
		return nil
	}
	fd := int(f.Fd())
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if errors.Is(err, unix.ENOTSOCK) {
		return nil
	}
	domain, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	protocol, err3 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err := errors.Join(err, err2, err3); err != nil {
		return fmt.Errorf("what it is cannot be told: %w", err)
	}
	inet := domain == unix.AF_INET || domain == unix.AF_INET6
	switch {
	case domain == unix.AF_UNIX && (kind == unix.SOCK_STREAM || kind == unix.SOCK_SEQPACKET):
	case inet && kind == unix.SOCK_STREAM && (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP):
	default:
		return errors.New("it is a socket with which the agent could send to any address; a stream, a pipe or a file is none")
	}
	return nil
}

// started is called once the agent holds its files.
func (t *terminal) started() {
	if t.relay != nil {
		t.relay.Started()
	}
}

// close puts the caller's terminal back, after the agent's last output.
func (t *terminal) close() {
	if t.relay != nil {
		t.relay.Close()
	}
	if t.null != nil {
		t.null.Close()
	}
}
