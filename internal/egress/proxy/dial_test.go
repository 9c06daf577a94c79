package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/testkit"
)

// TestDial_ports: connections to different servers share local ports. A socket that
// is bound before it is known where it leads takes a port from all of them, and as
// many as there are ports, those that ended in the last minute included, are all
// that can be made: a search for the last free ones took 5 ms.
func TestDial_ports(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		var servers []netip.AddrPort
		for range 4 {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			servers = append(servers, netip.MustParseAddrPort(l.Addr().String()))
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("30000 30001"), 0o644); err != nil {
			t.Fatal(err)
		}
		ports := map[uint16]bool{}
		for _, to := range servers {
			c, err := tcpDialer{}.Dial(t.Context(), to)
			if err != nil {
				t.Fatalf("Dial(%v) with %d connections to others: %v", to, len(ports), err)
			}
			defer c.Close()
			ports[c.LocalAddr().(*net.TCPAddr).AddrPort().Port()] = true
		}
		if len(ports) > 2 {
			t.Errorf("ports %v, want two at most: the test shows nothing", ports)
		}
	})
}

// TestDial: a connection that is made at once, one that is refused, and one that
// nobody waits for any more, in both families.
func TestDial(t *testing.T) {
	for network, host := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		l, err := net.Listen(network, host)
		if err != nil {
			t.Logf("%s is not there: %v", network, err)
			continue
		}
		at := netip.MustParseAddrPort(l.Addr().String())
		c, err := tcpDialer{}.Dial(t.Context(), at)
		if err != nil {
			t.Fatalf("Dial(%v): %v", at, err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := c.RemoteAddr().String(), at.String(); got != want {
			t.Errorf("connected to %s, want %s", got, want)
		}
		if got, want := c.LocalAddr().String(), s.RemoteAddr().String(); got != want {
			t.Errorf("the local address is %s, and the server sees %s", got, want)
		}
		c.SetDeadline(time.Now().Add(patience))
		go s.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("reading: %v", err)
		}
		c.Close()
		s.Close()
		l.Close()
		if _, err := (tcpDialer{}).Dial(t.Context(), at); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("Dial of a port without a listener = %v, want %v", err, unix.ECONNREFUSED)
		}
	}
}

// TestDial_ended: a server that does not answer is waited for no longer than the
// context lives.
func TestDial_ended(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for range 8 { // the backlog has room for one
		c, err := tcpDialer{}.Dial(ctx, at)
		if err == nil {
			defer c.Close()
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) && !timedOut(err) {
			t.Errorf("Dial = %v, want the end of the context", err)
		}
		return
	}
	t.Error("a full backlog took every connection: the test shows nothing")
}
