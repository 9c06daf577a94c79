package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// unhurried is a connection to a server that can be read without waiting. Who
// has the connection is its only user, so that now needs no lock.
type unhurried struct {
	*net.TCPConn
	now  bool // Read does not wait: without bytes it is os.ErrDeadlineExceeded
	raw  syscall.RawConn
	take func(fd uintptr) // one closure for the life of the connection
	into []byte
	n    int
	err  error
}

func newUnhurried(c *net.TCPConn) *unhurried {
	u := &unhurried{TCPConn: c}
	u.raw, u.err = c.SyscallConn()
	u.take = func(fd uintptr) {
		for u.err = unix.EINTR; u.err == unix.EINTR; {
			u.n, u.err = unix.Read(int(fd), u.into)
		}
	}
	return u
}

// under is the connection below TLS with a server.
func under(t *tls.Conn) *unhurried { return t.NetConn().(*unhurried) }

// Read reads, and waits for bytes unless now is set.
func (u *unhurried) Read(b []byte) (int, error) {
	if !u.now {
		return u.TCPConn.Read(b)
	}
	if u.raw == nil {
		return 0, u.err
	}
	u.into = b
	err := u.raw.Control(u.take)
	u.into = nil
	switch {
	case err != nil:
		return 0, err
	case u.err == unix.EAGAIN:
		return 0, os.ErrDeadlineExceeded // which TLS can go on after
	case u.err != nil:
		return 0, os.NewSyscallError("read", u.err)
	case u.n == 0:
		return 0, io.EOF
	}
	return u.n, nil
}
