package gate

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// bind gives the caller's socket an address: a granted loopback port, a path
// below a writable directory, or the kernel's choice of netlink port.
func (w *worker) bind() verdict {
	tw, inode, s, v := w.address(1, 2)
	if v.errno != 0 {
		return v
	}
	if tw == nil {
		return w.finished(inode, unix.EINVAL)
	}
	if !w.lock(tw) {
		return w.later("bind", unix.EAGAIN, (*worker).bind)
	}
	defer tw.mu.Unlock()
	errno := s.forBind(tw.kind)
	switch {
	case tw.done:
		return fail(unix.EINVAL)
	case errno != 0:
		return fail(errno)
	case tw.kind == kindDatagram:
		return ok(0) // a resolver binds before it asks; nothing else comes of it
	case tw.kind == kindMessage:
		return refuse(unix.EACCES, describe(s.path), "a unix datagram socket can send, to what the policy lists, and receive nothing")
	case tw.kind == kindNetlink:
		return fail(errnoOr0(unix.Bind(tw.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: s.groups})))
	case tw.kind == kindUnix:
		return w.later("bind", unix.EAGAIN, func(w *worker) verdict { return w.unixBind(tw, s) })
	}
	return w.streamBind(tw, s)
}

// streamBind binds to the sandbox's loopback address whatever loopback address
// or wildcard was asked for: a server inside is for the inside. A published
// port is bound where the host's own programs look for it.
func (w *worker) streamBind(tw *twin, s sockaddr) verdict {
	a, port := s.inet.Addr(), s.inet.Port()
	if !a.IsUnspecified() && !a.IsLoopback() {
		return refuse(unix.EADDRNOTAVAIL, s.inet.String(), "a server in the sandbox listens on loopback only")
	}
	if !w.g.o.BindPort(port) {
		return refuse(unix.EACCES, s.inet.String(), "the policy grants no such port under sockets.bind")
	}
	if tw.bound.IsValid() {
		return fail(unix.EINVAL)
	}
	to := netip.AddrPortFrom(w.g.o.Loopback[tw.kind-kindStream4], port)
	if w.g.o.Published(port) {
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		if a == netip.IPv6Loopback() {
			to = netip.AddrPortFrom(a, port)
		}
	}
	errno := bindTo(tw, to)
	if errno == unix.EADDRINUSE {
		// A socket that the agent has closed may still be held here.
		return w.later("bind", errno, func(w *worker) verdict {
			w.g.sweeper.wait()
			tw.mu.Lock()
			defer tw.mu.Unlock()
			if tw.done || tw.bound.IsValid() {
				return fail(unix.EINVAL)
			}
			return tw.boundTo(to, bindTo(tw, to))
		})
	}
	return tw.boundTo(to, errno)
}

// boundTo notes where a bind has put the socket. The caller holds mu.
func (tw *twin) boundTo(to netip.AddrPort, errno unix.Errno) verdict {
	if errno == 0 {
		tw.bound = to
	}
	return fail(errno)
}

func bindTo(tw *twin, to netip.AddrPort) unix.Errno {
	if tw.kind == kindStream4 {
		return errnoOr0(unix.Bind(tw.fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}))
	}
	if to.Addr().Is4() {
		if err := unix.SetsockoptInt(tw.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return errnoOf(err)
		}
	}
	return errnoOr0(unix.Bind(tw.fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}))
}

// listen makes a bound socket a server and lets go of it: the agent accepts by
// itself. An unbound TCP socket would listen on every address of the host.
func (w *worker) listen() verdict {
	tw, inode, v := w.socketAt(int(int32(w.n.Args[0])))
	if v.errno != 0 {
		return v
	}
	if tw == nil {
		return w.relisten(inode)
	}
	if !w.lock(tw) {
		return w.later("listen", unix.EAGAIN, (*worker).listen)
	}
	defer tw.mu.Unlock()
	stream := tw.kind == kindStream4 || tw.kind == kindStream6
	switch {
	case tw.done:
		return ok(0)
	case stream && !tw.bound.IsValid():
		return refuse(unix.EACCES, "listen", "a socket without an address would listen on every address of this host; bind it to loopback")
	case tw.kind == kindUnix && !tw.file:
		return fail(unix.EINVAL)
	case tw.kind != kindUnix && !stream:
		return fail(unix.EOPNOTSUPP)
	}
	if err := unix.Listen(tw.fd, int(int32(w.n.Args[1]))); err != nil {
		return fail(errnoOf(err))
	}
	if stream && w.g.o.Listen != nil {
		if local, err := localAddr(tw.fd); err == nil {
			w.g.o.Listen(local, inode)
		}
	}
	w.finish(inode, tw, 0)
	return answered
}

// relisten answers a second listen on a server, which only changes the length
// of its queue.
func (w *worker) relisten(inode uint64) verdict {
	if _, known := w.g.table.replay(inode, w.call()); known {
		return ok(0)
	}
	return refuse(unix.EACCES, "listen", "the sandbox did not get this socket from the gate")
}
