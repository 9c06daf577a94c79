package gate

import (
	"golang.org/x/sys/unix"
)

// socket makes the socket that the agent asked for and gives it away. The
// filter has already refused every family, type and protocol that is not
// listed here; a combination that comes through all the same is refused again.
func (w *worker) socket() verdict {
	domain, typ, proto := int(int32(w.n.Args[0])), int(int32(w.n.Args[1])), int(int32(w.n.Args[2]))
	flags := typ & (unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC)
	base := typ &^ (unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC)
	inet := domain == unix.AF_INET || domain == unix.AF_INET6
	switch {
	case inet && base == unix.SOCK_STREAM && (proto == 0 || proto == unix.IPPROTO_TCP):
		k := kindStream4
		if domain == unix.AF_INET6 {
			k = kindStream6
		}
		return w.broker(k, domain, base, proto, flags)
	case inet && base == unix.SOCK_DGRAM && (proto == 0 || proto == unix.IPPROTO_UDP):
		return w.standIn(flags)
	case domain == unix.AF_UNIX && (base == unix.SOCK_STREAM || base == unix.SOCK_SEQPACKET) && proto == 0:
		return w.broker(kindUnix, domain, base, proto, flags)
	case domain == unix.AF_UNIX && base == unix.SOCK_DGRAM:
		return w.unixDatagram(flags)
	case domain == unix.AF_NETLINK && proto == unix.NETLINK_ROUTE && (base == unix.SOCK_RAW || base == unix.SOCK_DGRAM):
		return w.broker(kindNetlink, domain, base, proto, flags)
	case inet:
		return refuse(unix.EPROTONOSUPPORT, "", "only TCP leaves the sandbox")
	}
	return refuse(unix.EAFNOSUPPORT, "", "this address family is not available in the sandbox")
}

// broker makes a socket, files it and puts it into the caller's table.
func (w *worker) broker(k kind, domain, base, proto, flags int) verdict {
	fd, err := unix.Socket(domain, base|unix.SOCK_CLOEXEC|flags, proto)
	if err != nil {
		return fail(errnoOf(err))
	}
	return w.give(&twin{kind: k, fd: fd}, flags)
}

// give files the twin under the inode of its descriptor and hands that to the
// caller. The twin is filed first: the caller's next call may come before this
// one has returned. It takes the twin, which is released on failure. When the
// table is full the caller waits until it has been seen which sockets are gone.
func (w *worker) give(tw *twin, flags int) verdict {
	var st unix.Stat_t
	if err := unix.Fstat(tw.fd, &st); err != nil {
		tw.release()
		return fail(errnoOf(err))
	}
	added, crowded := w.g.table.add(st.Ino, tw)
	switch {
	case !added:
		return w.giveLater(tw, st.Ino, flags)
	case crowded:
		w.g.sweeper.soon(w.g.workers.Go)
	}
	return w.hand(tw, st.Ino, flags)
}

func (w *worker) giveLater(tw *twin, inode uint64, flags int) verdict {
	v := w.later("socket", unix.ENFILE, func(w *worker) verdict {
		w.g.sweeper.wait()
		if added, _ := w.g.table.add(inode, tw); !added {
			tw.release()
			return refuse(unix.ENFILE, "", "the sandbox holds too many unconnected sockets")
		}
		return w.hand(tw, inode, flags)
	})
	if !v.done {
		tw.release()
	}
	return v
}

// hand gives the caller its end of a twin that has been filed. A call on it that
// comes at once waits until this one is done with the twin.
func (w *worker) hand(tw *twin, inode uint64, flags int) verdict {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	cloexec := flags&unix.SOCK_CLOEXEC != 0
	if tw.kind == kindDatagram || tw.kind == kindMessage {
		return w.handStandIn(tw, inode, cloexec)
	}
	if _, err := w.g.l.AddFDSend(w.n.ID, tw.fd, cloexec); err != nil {
		w.g.table.dropLocked(inode, tw)
		return fail(errnoOf(err)) // the caller is gone, or its table is full: EMFILE
	}
	tw.given.Store(true)
	return answered
}

// handStandIn gives a stand-in for a UDP socket one of its own numbers, or any, where none is
// free or the caller's limit is lower. Then the agent's own end is the only one
// left, so that its close is seen. The caller holds mu.
func (w *worker) handStandIn(tw *twin, inode uint64, cloexec bool) verdict {
	at, ok := 0, false
	if tw.kind == kindDatagram {
		at, ok = w.number()
	}
	ok = ok && w.g.l.AddFDAt(w.n.ID, tw.fd, at, cloexec) == nil
	if !ok {
		var err error
		if at, err = w.g.l.AddFD(w.n.ID, tw.fd, cloexec); err != nil {
			w.g.table.dropLocked(inode, tw)
			return fail(errnoOf(err))
		}
	}
	unix.Close(tw.fd)
	tw.fd = -1
	tw.given.Store(true)
	return verdict{val: int64(at)}
}

// standIn answers a request for a UDP socket with one end of a packet pair. It
// carries queries to the policy DNS and nothing else: a UDP socket would obey
// the name in any msghdr, a packet pair has only one place to send to.
func (w *worker) standIn(flags int) verdict {
	if w.g.o.Datagram == nil {
		return refuse(unix.EACCES, "UDP socket", "only TCP leaves the sandbox, and names are resolved by the proxy")
	}
	ends, err := pair()
	if err != nil {
		return fail(errnoOf(err))
	}
	if flags&unix.SOCK_NONBLOCK != 0 {
		unix.SetNonblock(ends[0], true)
	}
	g, tw := w.g, &twin{kind: kindDatagram, fd: ends[0]}
	tw.dgram = g.o.Datagram(ends[1], func() { g.table.forget(tw) })
	return w.give(tw, flags)
}

func errnoOf(err error) unix.Errno {
	for err != nil {
		if e, is := err.(unix.Errno); is {
			return e
		}
		u, can := err.(interface{ Unwrap() error })
		if !can {
			break
		}
		err = u.Unwrap()
	}
	return unix.EACCES
}
