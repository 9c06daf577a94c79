package attack

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

func connectLoopback(a *agent) {
	v4, v6 := parse(a.TCP4), parse(a.TCP6)
	long := make([]byte, 128)
	copy(long, sockaddr(v4))
	for _, v := range []struct {
		name string
		sa   []byte
	}{
		{"v4", sockaddr(v4)},
		{"v6", sockaddr(v6)},
		{"v4_mapped", sockaddr6(v4)},
		{"any_v4", sockaddr(at(a.TCP4, "0.0.0.0"))},
		{"any_v6", sockaddr(at(a.TCP6, "::"))},
		{"any_mapped", sockaddr6(at(a.TCP4, "0.0.0.0"))},
		{"long_sockaddr", long},
		{"v6_without_scope", sockaddr(v6)[:24]},
	} {
		a.try(v.name, func() error { return a.reach(v.name, v.sa) })
	}
	for i, garbage := range []struct {
		name   string
		d, t   uintptr
		length uintptr
	}{{"domain_high_bits", high, 0, 0}, {"type_high_bits", 0, high, 0}, {"length_high_bits", 0, 0, high}} {
		a.try(garbage.name, func() error {
			fd, err := socket(unix.AF_INET|garbage.d, unix.SOCK_STREAM|garbage.t, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			sa := sockaddr(v4)
			descriptor := uintptr(fd) | uintptr(i&1)*high
			if _, err := call(unix.SYS_CONNECT, descriptor, a.heap.put(sa), uintptr(len(sa))|garbage.length); err != nil {
				return err
			}
			return a.prove(fd, garbage.name)
		})
	}
}

func connectOwn(a *agent) {
	for i, to := range append(a.Own, a.Linked) {
		name := fmt.Sprintf("address_%d", i)
		if i == len(a.Own) {
			name = "link_local"
		}
		a.try(name, func() error {
			if to == "" {
				return &absent{"this host has no such address"}
			}
			return a.reach(name, sockaddr(parse(to)))
		})
	}
}

func connectBeside(a *agent) {
	for _, to := range a.Beside {
		ap := parse(to)
		name := "at_" + ap.Addr().String()
		a.try(name, func() error { return a.reach(name, sockaddr(ap)) })
		if ap.Addr().Is4() {
			a.try(name+"_mapped", func() error { return a.reach(name+"_mapped", sockaddr6(ap)) })
		}
	}
}

func nonblocking(a *agent) {
	for name, to := range map[string]string{"v4": a.TCP4, "v6": a.TCP6} {
		a.try(name, func() error {
			return a.reachBy(name, sockaddr(parse(to)), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		})
	}
}

// connectAgain starts from a connection that is allowed.
func connectAgain(a *agent) {
	for _, v := range []struct {
		name string
		do   func(fd int)
	}{
		{"after_unspec", func(fd int) { a.connect(fd, unspecified()) }},
		{"after_short_unspec", func(fd int) { a.connect(fd, unspecified()[:2]) }},
		{"after_shutdown", func(fd int) {
			unix.Shutdown(fd, unix.SHUT_RDWR)
			a.connect(fd, unspecified())
		}},
		{"as_server", func(fd int) {
			a.connect(fd, unspecified())
			if err := unix.Listen(fd, 1); err == nil {
				unix.Shutdown(fd, unix.SHUT_RDWR)
			}
			a.connect(fd, unspecified())
		}},
	} {
		a.try(v.name, func() error {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			if err := a.connect(fd, sockaddr(parse(a.Proxy))); err != nil {
				return faultf("connecting to the proxy: %w", err)
			}
			v.do(fd)
			if err := a.connect(fd, sockaddr(parse(a.TCP4))); err != nil {
				return err
			}
			return a.prove(fd, v.name)
		})
	}
}

// acceptedSocket connects to its own server and tries to turn the other end.
func acceptedSocket(a *agent) {
	a.try("reconnect", func() error {
		l, to, err := a.serve(unix.AF_INET, netip.MustParseAddrPort("127.0.0.1:0"))
		if err != nil {
			return faultf("server: %w", err)
		}
		defer unix.Close(l)
		c, err := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return faultf("socket: %w", err)
		}
		defer unix.Close(c)
		if err := a.connected(c, sockaddr(to)); err != nil {
			return faultf("connecting to the own server: %w", err)
		}
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			return faultf("accept: %w", err)
		}
		defer unix.Close(fd)
		a.connect(fd, unspecified())
		if err := a.connect(fd, sockaddr(parse(a.TCP4))); err != nil {
			return err
		}
		return a.prove(fd, "reconnect")
	})
}

// serve makes a listening TCP socket.
func (a *agent) serve(domain uintptr, on netip.AddrPort) (int, netip.AddrPort, error) {
	fd, err := socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, on, err
	}
	sa := sockaddr(on)
	if domain == unix.AF_INET6 {
		sa = sockaddr6(on)
	}
	_, err = call(unix.SYS_BIND, uintptr(fd), a.heap.put(sa), uintptr(len(sa)))
	if err == nil {
		_, err = call(unix.SYS_LISTEN, uintptr(fd), 8)
	}
	if err != nil {
		unix.Close(fd)
		return -1, on, err
	}
	return fd, localOf(fd), nil
}

func localOf(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch s := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr).Unmap(), uint16(s.Port))
	}
	return netip.AddrPort{}
}

// exposed says whether a server came to listen where others can reach it.
func exposed(fd int) error {
	if ap := localOf(fd); ap.Addr().IsLoopback() {
		return &refusal{wordLoopback, ap.String()}
	}
	return nil
}

func bindPorts(a *agent) {
	any4, any6 := netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("[::]:0")
	list := []struct {
		name   string
		domain uintptr
		on     netip.AddrPort
	}{
		{"any_v4", unix.AF_INET, any4}, {"any_v6", unix.AF_INET6, any6}, {"any_mapped", unix.AF_INET6, any4},
	}
	for i, own := range a.Own {
		domain := uintptr(unix.AF_INET)
		if strings.HasPrefix(own, "[") {
			domain = unix.AF_INET6
		}
		list = append(list, struct {
			name   string
			domain uintptr
			on     netip.AddrPort
		}{fmt.Sprintf("own_address_%d", i), domain, netip.AddrPortFrom(parse(own).Addr(), 0)})
	}
	for _, v := range list {
		a.try(v.name, func() error {
			fd, _, err := a.serve(v.domain, v.on)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return exposed(fd)
		})
	}
	a.try("foreign_port", func() error {
		// The forbidden server's port on an address of its own is free.
		fd, _, err := a.serve(unix.AF_INET, at(a.TCP4, "127.0.0.77"))
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
}

func listenUnbound(a *agent) {
	for name, domain := range map[string]uintptr{"v4": unix.AF_INET, "v6": unix.AF_INET6} {
		a.try(name, func() error {
			fd, err := socket(domain, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			if _, err := call(unix.SYS_LISTEN, uintptr(fd), 8); err != nil {
				return err
			}
			return exposed(fd)
		})
	}
}

// hijack binds the port of another listener of the same user. Both would then
// get connections.
func hijack(a *agent) {
	for name, addr := range map[string]string{"same_address": parse(a.Reuse).Addr().String(), "any": "0.0.0.0", "beside": "127.0.0.88"} {
		a.try(name, func() error {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			for _, opt := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1); err != nil {
					return err
				}
			}
			sa := sockaddr(at(a.Reuse, addr))
			if _, err := call(unix.SYS_BIND, uintptr(fd), a.heap.put(sa), uintptr(len(sa))); err != nil {
				return err
			}
			_, err = call(unix.SYS_LISTEN, uintptr(fd), 8)
			return err
		})
	}
}

// staleServer has a server of its own on a port, ends it, and comes back when
// the host has put another one there.
func staleServer(a *agent) {
	a.try("same_port", func() error {
		fd, on, err := a.serve(unix.AF_INET, netip.MustParseAddrPort("127.0.0.1:0"))
		if err != nil {
			return faultf("server: %w", err)
		}
		unix.Close(fd)
		answer, err := a.tell(on.String())
		if err != nil || answer != "taken" {
			return faultf("the suite could not take the port: %v %s", err, answer)
		}
		return a.reach("same_port", sockaddr(on))
	})
}
