package testkit

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNetns(t *testing.T) {
	Netns(t, func(t *testing.T) {
		for _, a := range []string{"127.0.0.1:0", "93.184.216.34:443", "[2606:2800:220:1::1]:443"} {
			l, err := net.Listen("tcp", a)
			if err != nil {
				t.Error(err)
				continue
			}
			defer l.Close()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				continue
			}
			c.Close()
		}
	}, "93.184.216.34", "2606:2800:220:1::1")
}

func TestNobody(t *testing.T) {
	Nobody(t, func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Error("uid 0")
		}
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("status lacks %q:\n%s", want, status)
			}
		}
		if _, err := os.CreateTemp("", "x"); err != nil {
			t.Error(err)
		}
	})
}

func TestRunInSubprocess(t *testing.T) {
	pid := os.Getpid()
	t.Run("own process", func(t *testing.T) {
		RunInSubprocess(t, func(t *testing.T) {
			if os.Getpid() == pid && os.Getenv(childVar) == "" {
				t.Error("same process")
			}
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestRequire(t *testing.T) {
	if k := Kernel(); k.Major < 3 {
		t.Errorf("Kernel() = %v", k)
	}
	tests := []struct {
		a, b Release
		want bool
	}{
		{Release{5, 19}, Release{6, 0}, true},
		{Release{6, 0}, Release{5, 19}, false},
		{Release{6, 1}, Release{6, 12}, true},
		{Release{6, 12}, Release{6, 12}, false},
		{Release{6, 12}, Release{}, false},
	}
	for _, tt := range tests {
		if got := tt.a.Before(tt.b); got != tt.want {
			t.Errorf("%v.Before(%v) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestNoLeaks(t *testing.T) {
	RunInSubprocess(t, func(t *testing.T) { NoLeaks(t) })
}

// A neighbour is another host: reached by its addresses, with a loopback of its
// own, and its resolver is the only one.
func TestWithNeighbour(t *testing.T) {
	WithNeighbour(t, func(t *testing.T, n *Neighbour) {
		l := n.Listen(t, "203.0.113.10:80")
		if _, err := net.Listen("tcp", "203.0.113.10:81"); err == nil {
			t.Error("the neighbour's address is one of this host's")
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		local := n.Listen(t, "127.0.0.1:0")
		if c, err := net.Dial("tcp", local.Addr().String()); err == nil {
			c.Close()
			t.Error("reached the neighbour's loopback")
		}
		UseResolver(t, "203.0.113.53")
		if b, err := os.ReadFile("/etc/resolv.conf"); err != nil || !strings.Contains(string(b), "203.0.113.53") {
			t.Errorf("resolv.conf = %q, %v", b, err)
		}
	}, "203.0.113.1/24", "203.0.113.10/24", "203.0.113.53/24")
}
