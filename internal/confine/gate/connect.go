package gate

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// connect connects the caller's socket, on its behalf, to where Route says.
func (w *worker) connect() verdict {
	tw, inode, s, v := w.address(1, 2)
	if v.errno != 0 {
		return v
	}
	if tw == nil {
		return w.finished(inode, unix.EISCONN)
	}
	tw.mu.Lock()
	defer tw.mu.Unlock()
	switch {
	case tw.done:
		return fail(unix.EISCONN)
	case tw.busy:
		return fail(unix.EALREADY)
	case s.family == unix.AF_UNSPEC:
		return ok(0) // dissolves an association; there is none yet
	case tw.kind == kindDatagram:
		v := datagramConnect(s)
		if v.errno == 0 {
			tw.asks(s, w.buf)
		}
		return v
	case tw.kind == kindNetlink:
		return netlinkConnect(tw, s)
	case tw.kind == kindUnix && s.family == unix.AF_UNIX:
		return w.later("connect", unix.EAGAIN, func(w *worker) verdict { return w.unixConnect(tw, inode, s) })
	case tw.kind == kindUnix:
		return fail(unix.EINVAL)
	case tw.kind == kindStream6 && s.family == unix.AF_INET6, tw.kind == kindStream4 && s.family == unix.AF_INET:
		return w.streamConnect(tw, inode, s)
	}
	return fail(unix.EAFNOSUPPORT)
}

// finished answers for a socket without a twin: one that the gate connected
// before, or a stranger.
func (w *worker) finished(inode uint64, known unix.Errno) verdict {
	o, is := w.g.table.replay(inode)
	switch {
	case !is:
		return refuse(unix.EACCES, "", "the sandbox did not get this socket from the gate")
	case !o.heard:
		return verdict{errno: o.errno}
	}
	return fail(known)
}

// streamConnect is the hot path: judge, book, connect, let go.
func (w *worker) streamConnect(tw *twin, inode uint64, s sockaddr) verdict {
	if s.inet.Port() == 0 {
		return fail(unix.EADDRNOTAVAIL)
	}
	r := w.g.o.Route(w.n.TID, s.inet)
	if r.Judge != nil {
		return w.later("connect", unix.EAGAIN, func(w *worker) verdict { return w.streamJudged(tw, inode, s, r.Judge) })
	}
	return w.streamTo(tw, inode, s, r)
}

// streamJudged connects where a decision that took its time leads to.
func (w *worker) streamJudged(tw *twin, inode uint64, s sockaddr, judge func(func() bool) Route) verdict {
	r := judge(func() bool { return w.g.l.Valid(w.n.ID) == nil })
	if r.Errno == 0 && !r.Book {
		return w.slowly(tw, inode, func(fd int) unix.Errno { return connectTo(tw.kind, fd, r.To) })
	}
	tw.mu.Lock()
	defer tw.mu.Unlock()
	switch {
	case tw.done:
		return fail(unix.EISCONN)
	case tw.busy:
		return fail(unix.EALREADY)
	}
	return w.streamTo(tw, inode, s, r)
}

// streamTo connects to a place that does not keep anybody waiting: the proxy, or
// a server inside.
func (w *worker) streamTo(tw *twin, inode uint64, s sockaddr, r Route) verdict {
	if r.Errno != 0 {
		return verdict{errno: r.Errno, target: s.inet.String(), addr: s.inet, reason: r.Reason}
	}
	book := func(netip.AddrPort) {}
	if r.Book {
		var err error
		if book, err = w.g.o.Ledger.Open(w.n.TID, s.inet); err != nil {
			return verdict{errno: unix.EACCES, target: s.inet.String(), addr: s.inet, reason: err.Error()}
		}
		if w.g.l.Valid(w.n.ID) != nil {
			book(netip.AddrPort{}) // the number may be another thread's by now
			return fail(unix.EINTR)
		}
	}
	errno := connectTo(tw.kind, tw.fd, r.To)
	if errno != 0 && errno != unix.EINPROGRESS {
		book(netip.AddrPort{})
		return fail(errno)
	}
	local, err := localAddr(tw.fd)
	if err != nil {
		book(netip.AddrPort{})
		w.g.table.finish(inode, tw)
		return fail(unix.ECONNABORTED)
	}
	book(local)
	w.finish("connect", inode, tw, errno)
	return answered
}

// finish lets go of the twin, while closing it is no more than dropping a
// reference, and then answers.
func (w *worker) finish(call string, inode uint64, tw *twin, errno unix.Errno) {
	w.g.table.finish(inode, tw)
	if !w.reply(call, verdict{errno: errno}) {
		w.g.table.unheard(inode, errno)
	}
}

// connectTo connects the twin. A v6 socket reaches the loopback address of the
// other family through its mapped form, for which the agent's IPV6_V6ONLY is
// put aside.
func connectTo(k kind, fd int, to netip.AddrPort) unix.Errno {
	var sa unix.Sockaddr
	switch {
	case k == kindStream4:
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	case to.Addr().Is4():
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return errnoOf(err)
		}
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	default:
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	for {
		err := unix.Connect(fd, sa)
		switch err {
		case nil:
			return 0
		case unix.EINTR:
			continue
		case unix.EISCONN:
			return 0
		case unix.EALREADY:
			return unix.EINPROGRESS
		}
		return errnoOf(err)
	}
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}

// datagramConnect lets a stand-in be connected to any name server: all of them
// are the policy DNS. getaddrinfo also connects a UDP socket to each answer, to
// learn a source address; it takes a refusal well.
func datagramConnect(s sockaddr) verdict {
	if s.family != unix.AF_INET && s.family != unix.AF_INET6 {
		return fail(unix.EAFNOSUPPORT)
	}
	if s.inet.Port() == 53 {
		return ok(0)
	}
	return fail(unix.ENETUNREACH)
}

// netlinkConnect connects to the kernel; there is nobody else on the bus.
func netlinkConnect(tw *twin, s sockaddr) verdict {
	if s.family != unix.AF_NETLINK || s.pid != 0 || s.groups != 0 {
		return refuse(unix.EPERM, "netlink", "only the kernel can be reached by netlink")
	}
	return fail(errnoOr0(unix.Connect(tw.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})))
}

func errnoOr0(err error) unix.Errno {
	if err == nil {
		return 0
	}
	return errnoOf(err)
}
