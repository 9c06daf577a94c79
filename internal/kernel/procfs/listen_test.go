package procfs

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestListener(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		host := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
		l, err := net.Listen(network, host)
		if err != nil {
			t.Logf("%s: %v", network, err)
			continue
		}
		a := l.Addr().(*net.TCPAddr).AddrPort()
		c, err := net.Dial(network, a.String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := Listener(os.Getpid(), a)
		if want := inodeOf(t, l.(*net.TCPListener)); err != nil || got != want {
			t.Errorf("Listener(%v) = %d, %v; want %d", a, got, err, want)
		}
		l.Close()
		if _, err := Listener(os.Getpid(), a); !errors.Is(err, unix.ENOENT) {
			t.Errorf("Listener(%v) after close = %v, want ENOENT", a, err)
		}
		c.Close()
	}
}

func inodeOf(t *testing.T, l *net.TCPListener) uint64 {
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	raw.Control(func(fd uintptr) { err = syscall.Fstat(int(fd), &st) })
	if err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestParseTCPLine(t *testing.T) {
	const v4 = "   0: 0100007F:0C38 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 55551 1 0000000000000000 100 0 0 10 0"
	const v6 = "   1: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 77 1 0"
	for _, tt := range []struct {
		line      string
		addr      string
		listening bool
		inode     uint64
	}{{v4, "127.0.0.1:3128", true, 55551}, {v6, "127.0.0.1:8080", false, 77}} {
		a, l, i, err := parseTCPLine(tt.line)
		if err != nil || a != netip.MustParseAddrPort(tt.addr) || l != tt.listening || i != tt.inode {
			t.Errorf("parseTCPLine = %v, %v, %d, %v", a, l, i, err)
		}
	}
	if _, _, _, err := parseTCPLine("nonsense"); err == nil {
		t.Error("nonsense was accepted")
	}
}

func FuzzParseTCPLine(f *testing.F) {
	f.Add("0: 0100007F:0C38 00000000:0000 0A 0:0 00:0 0 0 0 5 1")
	f.Fuzz(func(t *testing.T, s string) { parseTCPLine(s) })
}
