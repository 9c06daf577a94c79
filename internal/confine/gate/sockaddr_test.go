package gate

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseSockaddr(t *testing.T) {
	v4 := []byte{2, 0, 0x01, 0xbb, 93, 184, 216, 34, 0, 0, 0, 0, 0, 0, 0, 0}
	v6 := append([]byte{10, 0, 0x0c, 0x38, 1, 2, 3, 4}, append(netip.MustParseAddr("2606:2800:220:1::1").AsSlice(), 7, 0, 0, 0)...)
	mapped := append([]byte{10, 0, 0, 80, 0, 0, 0, 0}, append(netip.MustParseAddr("::ffff:10.0.0.1").AsSlice(), 0, 0, 0, 0)...)
	for _, tt := range []struct {
		name  string
		in    []byte
		want  sockaddr
		errno unix.Errno
	}{
		{"nothing", nil, sockaddr{}, unix.EINVAL},
		{"one byte", []byte{2}, sockaddr{}, unix.EINVAL},
		{"longer than any", make([]byte, 129), sockaddr{}, unix.EINVAL},
		{"unspec", []byte{0, 0}, sockaddr{}, 0},
		{"inet", v4, sockaddr{family: 2, inet: netip.MustParseAddrPort("93.184.216.34:443")}, 0},
		{"inet short", v4[:15], sockaddr{family: 2}, unix.EINVAL},
		{"inet6", v6, sockaddr{family: 10, inet: netip.MustParseAddrPort("[2606:2800:220:1::1]:3128"), scope: 7}, 0},
		{"inet6 without scope, RFC 2133", v6[:24], sockaddr{family: 10, inet: netip.MustParseAddrPort("[2606:2800:220:1::1]:3128")}, 0},
		{"inet6 short", v6[:23], sockaddr{family: 10}, unix.EINVAL},
		{"inet6 mapped", mapped, sockaddr{family: 10, inet: netip.MustParseAddrPort("10.0.0.1:80")}, 0},
		{"unix path", []byte("\x01\x00/run/x.sock\x00junk"), sockaddr{family: 1, path: "/run/x.sock"}, 0},
		{"unix path unterminated", []byte("\x01\x00/run/x"), sockaddr{family: 1, path: "/run/x"}, 0},
		{"unix abstract", []byte("\x01\x00\x00name"), sockaddr{family: 1, abstract: true, path: "name"}, 0},
		{"unix autobind", []byte{1, 0}, sockaddr{family: 1, abstract: true}, 0},
		{"unix too long", append([]byte{1, 0}, make([]byte, 109)...), sockaddr{family: 1}, unix.EINVAL},
		{"netlink", []byte{16, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0}, sockaddr{family: 16, pid: 5, groups: 1}, 0},
		{"vsock", []byte{40, 0, 0, 0}, sockaddr{family: 40}, unix.EAFNOSUPPORT},
	} {
		got, errno := parseSockaddr(tt.in)
		if got != tt.want || errno != tt.errno {
			t.Errorf("%s: parseSockaddr = %+v, %v; want %+v, %v", tt.name, got, errno, tt.want, tt.errno)
		}
	}
}

func FuzzParseSockaddr(f *testing.F) {
	f.Add([]byte{2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte("\x01\x00/tmp/x"))
	f.Add([]byte("\x01\x00\x00name"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, errno := parseSockaddr(b)
		if errno != 0 {
			return
		}
		if s.inet.IsValid() && s.inet.Addr().Is4In6() {
			t.Errorf("%x: %v is still mapped", b, s.inet)
		}
		if s.inet.Addr().Zone() != "" {
			t.Errorf("%x: %v has a zone", b, s.inet)
		}
		if s.family == unix.AF_UNIX && s.path == "" && !s.abstract {
			t.Errorf("%x: path %q, abstract %v", b, s.path, s.abstract)
		}
	})
}
