package gate

import (
	"golang.org/x/sys/unix"
)

// The longest messages that are copied for a send with an address.
const (
	maxQuery   = 4096 // a DNS query, RFC 6891
	maxNetlink = 8192 // a route request
)

// sendto answers a send that carries an address. Only two kinds of socket have
// a use for one: a stand-in, to ask a name server, and netlink, to ask the
// kernel. A stream refuses it, as POSIX allows.
func (w *worker) sendto() verdict {
	tw, inode, s, v := w.address(4, 5)
	if v.errno != 0 {
		return v
	}
	if tw == nil {
		return w.finished(inode, unix.EISCONN)
	}
	if !w.lock(tw) {
		return w.later("sendto", unix.EAGAIN, (*worker).sendto)
	}
	defer tw.mu.Unlock()
	switch {
	case tw.kind == kindStream4, tw.kind == kindStream6:
		return fail(unix.EPIPE) // it is not connected, and that comes before the address
	case tw.kind == kindUnix:
		if typ, err := unix.GetsockoptInt(tw.fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || typ == unix.SOCK_SEQPACKET || s.size == 0 {
			return fail(unix.ENOTCONN)
		}
		return fail(unix.EOPNOTSUPP)
	case s.errno != 0:
		return fail(s.errno)
	case tw.kind == kindDatagram && !w.patient:
		return w.later("sendto", unix.EAGAIN, (*worker).sendto) // the name server may take its time
	case tw.kind == kindDatagram:
		return w.datagramSend(tw, s)
	case tw.kind == kindNetlink:
		return w.netlinkSend(tw, s)
	case tw.kind == kindMessage && s.family == unix.AF_UNIX:
		return w.later("sendto", unix.EAGAIN, func(w *worker) verdict { return w.messageSend(s) })
	}
	return fail(unix.EINVAL) // of another family, to a unix datagram socket
}

func (w *worker) payload(limit uint64) ([]byte, unix.Errno) {
	n := w.n.Args[2]
	if n > limit {
		return nil, unix.EMSGSIZE
	}
	b := make([]byte, n)
	if errno := w.memory(w.n.Args[1], b); n > 0 && errno != 0 {
		return nil, errno
	}
	if w.g.l.Valid(w.n.ID) != nil {
		return nil, unix.EINTR
	}
	return b, 0
}

func (w *worker) datagramSend(tw *twin, s sockaddr) verdict {
	if v := datagramConnect(s); v.errno != 0 {
		return verdict{errno: v.errno, target: s.inet.String() + "/udp", addr: s.inet, reason: "only TCP leaves the sandbox; UDP reaches the name server on port 53 and nothing else"}
	}
	b, errno := w.payload(maxQuery)
	if errno != 0 {
		return fail(errno)
	}
	tw.asks(s, w.buf)
	tw.dgram.Send(b)
	return ok(int64(len(b)))
}

func (w *worker) netlinkSend(tw *twin, s sockaddr) verdict {
	if s.family != unix.AF_NETLINK || s.pid != 0 || s.groups != 0 {
		return refuse(unix.EPERM, "netlink", "only the kernel can be reached by netlink")
	}
	b, errno := w.payload(maxNetlink)
	if errno != 0 {
		return fail(errno)
	}
	if err := unix.Sendto(tw.fd, b, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fail(errnoOf(err))
	}
	return ok(int64(len(b)))
}
