package sockdiag

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inode asks the socket itself.
func inode(t testing.TB, l net.Listener) uint64 {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func listen(t testing.TB, addr string) (net.Listener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).AddrPort()
}

func TestListener(t *testing.T) {
	var c Client
	defer c.Close()
	for _, addr := range []string{"127.0.0.1:0", "127.5.6.7:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		l, at := listen(t, addr)
		ask := at
		switch {
		case at.Addr() == netip.IPv4Unspecified():
			ask = netip.AddrPortFrom(netip.MustParseAddr("127.9.9.9"), at.Port())
		case at.Addr() == netip.IPv6Unspecified(): // takes IPv4 too
			ask = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
		}
		if got, err := c.Listener(ask); err != nil || got != inode(t, l) {
			t.Errorf("%s: Listener(%v) = %d, %v, want %d", addr, ask, got, err, inode(t, l))
		}
		l.Close()
		if got, err := c.Listener(ask); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s, closed: Listener(%v) = %d, %v, want ENOENT", addr, ask, got, err)
		}
	}
}

// A connected socket with the same local address is not a listener, and a
// socket that is bound but does not listen is none either.
func TestListener_others(t *testing.T) {
	var c Client
	defer c.Close()
	l, at := listen(t, "127.0.0.1:0")
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	own := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if got, err := c.Listener(own); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Listener(%v) = %d, %v for a client, want ENOENT", own, got, err)
	}
	if got, err := c.Listener(at); err != nil || got != inode(t, l) {
		t.Errorf("Listener(%v) = %d, %v, want %d", at, got, err, inode(t, l))
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	bound := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	if got, err := c.Listener(bound); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Listener(%v) = %d, %v for a socket that is bound only, want ENOENT", bound, got, err)
	}
}

func FuzzParse(f *testing.F) {
	ok := make([]byte, sizeHeader+sizeMessage)
	binary.NativeEndian.PutUint16(ok[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint32(ok[8:], 7)
	ok[sizeHeader+stateAt] = tcpListen
	f.Add(ok, uint32(7))
	f.Add(ok[:20], uint32(7))
	f.Fuzz(func(t *testing.T, b []byte, seq uint32) {
		m, mine, err := parse(b, seq)
		if m != nil && (!mine || err != nil || len(m) < sizeMessage) {
			t.Errorf("parse = %d bytes, %v, %v", len(m), mine, err)
		}
	})
}

func BenchmarkListener(b *testing.B) {
	var c Client
	defer c.Close()
	_, at := listen(b, "127.0.0.1:0")
	for b.Loop() {
		if _, err := c.Listener(at); err != nil {
			b.Fatal(err)
		}
	}
}
