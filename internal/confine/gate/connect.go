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
	if !w.lock(tw) {
		return w.later("connect", unix.EAGAIN, (*worker).connect)
	}
	defer tw.mu.Unlock()
	if tw.done {
		return w.finished(inode, unix.EISCONN)
	}
	if errno := s.forConnect(tw.kind); errno != 0 {
		return fail(errno)
	}
	switch {
	case s.family == unix.AF_UNSPEC && tw.kind == kindMessage:
		tw.messages.connect(nil)
		return ok(0)
	case s.family == unix.AF_UNSPEC:
		return ok(0) // dissolves an association; there is none yet
	case tw.kind == kindMessage && s.family == unix.AF_UNIX:
		return w.later("connect", unix.EAGAIN, func(w *worker) verdict { return w.messageConnect(tw.messages, s) })
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
	case tw.kind == kindStream6 && s.family == unix.AF_INET6, tw.kind == kindStream4 && s.family == unix.AF_INET:
		return w.streamConnect(tw, inode, s)
	}
	return fail(unix.EAFNOSUPPORT)
}

// finished answers for a socket without a twin: one that the gate connected
// before, or a stranger. The call may be one that a signal interrupted, made again
// while the answer to it is on its way: whether that one is heard is known first.
func (w *worker) finished(inode uint64, known unix.Errno) verdict {
	w.g.answers.Lock()
	defer w.g.answers.Unlock()
	o, is := w.g.table.replay(inode, w.call())
	switch {
	case !is:
		return refuse(unix.EACCES, "", "the sandbox did not get this socket from the gate")
	case !o.heard:
		w.tellOutcome(inode, o.errno)
		return answered
	}
	return fail(known)
}

// streamConnect is the hot path: judge, book, connect, let go.
func (w *worker) streamConnect(tw *twin, inode uint64, s sockaddr) verdict {
	switch {
	case s.inet.Port() == 0:
		return fail(unix.ECONNREFUSED) // nobody can listen there
	case tw.under.IsValid():
		return w.joinConnect(tw, inode, s)
	case !w.g.rate.allow():
		return verdict{errno: unix.EAGAIN, target: s.inet.String(), addr: s.inet, reason: "this sandbox tries too many connections a second"}
	}
	r := w.g.o.Route(w.n.TID, s.inet)
	if r.Judge != nil {
		return w.later("connect", unix.EAGAIN, func(w *worker) verdict { return w.streamJudged(tw, inode, s, r.Judge) })
	}
	return w.streamTo(tw, inode, s, r)
}

// streamJudged connects where a decision that took its time leads to.
func (w *worker) streamJudged(tw *twin, inode uint64, s sockaddr, judge func(func() bool) Route) verdict {
	r := judge(w.waits)
	tw.mu.Lock()
	defer tw.mu.Unlock()
	switch {
	case tw.done:
		return w.finished(inode, unix.EISCONN)
	case tw.under.IsValid():
		return w.joinConnect(tw, inode, s)
	}
	return w.streamTo(tw, inode, s, r)
}

// streamTo connects, and waits elsewhere if that takes its time.
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
		if !w.waits() {
			book(netip.AddrPort{}) // the number may be another thread's by now
			return fail(unix.EINTR)
		}
	}
	tw.follow = r.Follow
	errno, blocking := connectTo(tw, r.To)
	if errno != 0 && errno != unix.EINPROGRESS {
		book(netip.AddrPort{})
		tw.made(errno)
		return fail(errno)
	}
	if refused := tw.begun(); refused != 0 {
		w.g.table.finish(inode, tw)
		return fail(refused)
	}
	local, err := localAddr(tw.fd)
	if err != nil {
		book(netip.AddrPort{})
		w.g.table.finish(inode, tw)
		return fail(unix.ECONNABORTED)
	}
	book(local)
	if r.Book && r.To != s.inet {
		tw.peer = s.inet
	}
	if errno == unix.EINPROGRESS && blocking {
		tw.under, tw.to = s.inet, r.To
		return w.awaitConnect(tw, inode)
	}
	tw.made(0)
	w.finish(inode, tw, errno)
	return answered
}

// begun tells who follows the connection, and ends it where that says so.
func (tw *twin) begun() (refused unix.Errno) {
	if tw.follow == nil {
		return 0
	}
	if refused = tw.follow.Begun(tw.fd); refused != 0 {
		_ = unix.Shutdown(tw.fd, unix.SHUT_RDWR)
	}
	return refused
}

// made tells who follows the connection what came of it.
func (tw *twin) made(errno unix.Errno) {
	if tw.follow != nil {
		tw.follow.Made(errno)
	}
}

// left tells who follows the connection that it is the agent's from now on, made
// or not. The caller of tw.left holds mu; that of what it returns need not.
func (tw *twin) left() func() {
	follow := tw.follow
	return func() {
		if follow != nil {
			follow.Made(0)
		}
	}
}

// awaitConnect waits elsewhere for a connection that is under way. If too many
// wait already, the connection goes on without: the next connect joins it.
func (w *worker) awaitConnect(tw *twin, inode uint64) verdict {
	end := patience(tw.fd)
	left := tw.left()
	v := w.later("connect", unix.EAGAIN, func(w *worker) verdict {
		defer left()
		for w.waits() {
			if v, made := w.made(tw, inode); made {
				return v
			}
			if over(end) {
				return fail(unix.EINPROGRESS)
			}
		}
		return fail(unix.EINTR)
	})
	if !v.done {
		left()
	}
	return v
}

// made looks for a slice whether a connection that is under way has ended.
func (w *worker) made(tw *twin, inode uint64) (verdict, bool) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	switch {
	case tw.done:
		return w.finished(inode, unix.EISCONN), true
	case !tw.under.IsValid():
		return fail(unix.ECONNABORTED), true // another caller has had the error
	case !writable(tw.fd):
		return verdict{}, false
	}
	switch errno := tw.outcome(); errno {
	case unix.EINPROGRESS:
		return verdict{}, false
	case 0:
		tw.made(0)
		w.finish(inode, tw, 0)
		return answered, true
	default:
		tw.made(errno)
		tw.under = netip.AddrPort{}
		return fail(errno), true
	}
}

// outcome is how far a connection is that was under way. One that is followed may
// have been ended meanwhile: another connect would begin it anew, unseen.
func (tw *twin) outcome() unix.Errno {
	if tw.follow == nil {
		errno, _ := connectTo(tw, tw.to)
		return errno
	}
	if e, err := unix.GetsockoptInt(tw.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
		return max(unix.Errno(e), errnoOr0(err))
	}
	if _, err := unix.Getpeername(tw.fd); err != nil {
		return unix.ECONNABORTED
	}
	return 0
}

// joinConnect answers a connect of a socket whose connection is under way: the
// caller was interrupted and asks again, or another thread asks too.
func (w *worker) joinConnect(tw *twin, inode uint64, s sockaddr) verdict {
	flags, err := unix.FcntlInt(uintptr(tw.fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 || s.inet != tw.under {
		return fail(unix.EALREADY)
	}
	return w.awaitConnect(tw, inode)
}

// finish lets go of the twin, while closing it is no more than dropping a
// reference, and then answers.
func (w *worker) finish(inode uint64, tw *twin, errno unix.Errno) {
	w.g.answers.RLock()
	defer w.g.answers.RUnlock()
	w.g.table.finish(inode, tw)
	w.tellOutcome(inode, errno)
}

// tellOutcome answers for a finished socket, and remembers an answer that the caller
// may not have heard.
func (w *worker) tellOutcome(inode uint64, errno unix.Errno) {
	switch taken := w.g.l.Respond(w.n.ID, 0, errno) == nil; {
	case !taken:
		w.g.table.unheard(inode, errno, call{})
	case w.g.o.Interruptible:
		w.g.table.unheard(inode, errno, w.call())
	}
}

func (w *worker) call() call { return call{w.n.TID, w.n.IP, [3]uint64(w.n.Args[:3])} }

// connectTo begins to connect the twin, or sees how far that is: EINPROGRESS says
// that it takes its time. blocking is whether the agent wants to wait for it. A v6 socket reaches the loopback address of the
// other family through its mapped form, for which the agent's IPV6_V6ONLY is
// put aside.
func connectTo(tw *twin, to netip.AddrPort) (errno unix.Errno, blocking bool) {
	var sa unix.Sockaddr
	switch {
	case tw.kind == kindStream4:
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	case to.Addr().Is4():
		if err := unix.SetsockoptInt(tw.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return errnoOf(err), false
		}
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	default:
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	errno, blocking = unblocked(tw.fd, func() unix.Errno { return errnoOr0(unix.Connect(tw.fd, sa)) })
	if errno == unix.EINPROGRESS && blocking {
		// On loopback the handshake is over when the first call returns; the
		// second one notices.
		errno, _ = unblocked(tw.fd, func() unix.Errno { return errnoOr0(unix.Connect(tw.fd, sa)) })
	}
	switch errno {
	case unix.EISCONN:
		return 0, blocking
	case unix.EALREADY, unix.EINTR:
		return unix.EINPROGRESS, blocking
	}
	return errno, blocking
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
