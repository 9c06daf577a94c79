package gate

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/procfs"
)

// Stand-ins get descriptor numbers of their own, so that a filter can tell a
// receive on one from any other: 960 to 1023, which select(2) still takes.
const (
	StandInFirst = 960
	StandInMask  = 0xffffffc0 // of the number; what is left is StandInFirst
	standIns     = 64
)

// pass lets a call continue. It is for receives alone: they are allowed on every
// socket inside, whatever their arguments and memory say, so nothing was judged
// that could change.
var pass = verdict{pass: true}

// recvfrom and recvmsg tell a resolver that its answer comes from the name
// server that it asked: glibc, c-ares and musl drop any other. A packet pair has
// no such address, and the kernel leaves the caller's buffer as it is; so it is
// put there before the call goes on.
func (w *worker) recvfrom() verdict {
	var room [4]byte
	if w.memory(w.n.Args[5], room[:]) == 0 {
		w.source(w.n.Args[4], binary.NativeEndian.Uint32(room[:]))
	}
	return pass
}

func (w *worker) recvmsg() verdict {
	var head [12]byte // msg_name, msg_namelen
	if w.memory(w.n.Args[1], head[:]) == 0 {
		w.source(binary.NativeEndian.Uint64(head[:]), binary.NativeEndian.Uint32(head[8:]))
	}
	return pass
}

// source writes the address of the name server that was asked last into the
// caller's own memory. Whatever fails here leaves the call as it was.
func (w *worker) source(addr uint64, room uint32) {
	tw := w.standInAt()
	if tw == nil || addr == 0 {
		return
	}
	if sa := tw.server(); int64(room) >= int64(len(sa)) {
		w.write(piece{addr, sa})
	}
}

// standInAt is the stand-in of the caller's first argument, or nil.
func (w *worker) standInAt() *twin {
	tw, _, v := w.socketAt(int(int32(w.n.Args[0])))
	if v.errno != 0 || tw == nil || tw.kind != kindDatagram {
		return nil
	}
	return tw
}

// server is the name server that was asked last, or nothing. It does not wait for
// mu, which a query holds for as long as its answer takes.
func (tw *twin) server() []byte {
	if sa := tw.asked.Load(); sa != nil {
		return *sa
	}
	return nil
}

// getsockname answers for a stand-in as for a UDP socket.
func (w *worker) getsockname() verdict {
	tw := w.standInAt()
	if tw == nil {
		return pass
	}
	// An address of loopback, in the family of the server that was asked. The
	// port means nothing: nobody can send to it.
	port := 1<<15 | uint16(tw.inode.Load())
	if len(tw.server()) == unix.SizeofSockaddrInet6 {
		return w.name(sockaddrOf(netip.AddrPortFrom(netip.IPv6Loopback(), port), true))
	}
	return w.name(sockaddrOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), false))
}

// getpeername names what the agent asked for, and not the proxy that it was
// connected to in its place.
func (w *worker) getpeername() verdict {
	tw, inode, v := w.socketAt(int(int32(w.n.Args[0])))
	if v.errno != 0 {
		return pass
	}
	if tw == nil {
		if o, known := w.g.table.peerOf(inode); known {
			return w.name(sockaddrOf(o.peer, o.six))
		}
	}
	if tw == nil || tw.kind != kindDatagram {
		return pass
	}
	sa := tw.server()
	if len(sa) == 0 {
		return fail(unix.ENOTCONN)
	}
	return w.name(sa)
}

// name returns a socket address as getsockname(2) does: cut to the room that
// the caller has, with its whole length beside it.
func (w *worker) name(sa []byte) verdict {
	var room [4]byte
	if errno := w.memory(w.n.Args[2], room[:]); errno != 0 {
		return fail(errno)
	}
	n := int32(binary.NativeEndian.Uint32(room[:]))
	if n < 0 {
		return fail(unix.EINVAL)
	}
	size := binary.NativeEndian.AppendUint32(nil, uint32(len(sa)))
	return fail(w.write(piece{w.n.Args[1], sa[:min(int(n), len(sa))]}, piece{w.n.Args[2], size}))
}

// piece is what is to be written at an address of the caller's memory.
type piece struct {
	addr uint64
	b    []byte
}

func (w *worker) write(pieces ...piece) unix.Errno {
	mem, err := procfs.OpenMem(w.n.TID)
	if err != nil {
		return unix.EFAULT
	}
	defer unix.Close(mem)
	// The memory is that of the caller for certain only if it still waits now.
	if w.g.l.Valid(w.n.ID) != nil {
		return unix.EINTR
	}
	for _, p := range pieces {
		if _, err := unix.Pwrite(mem, p.b, int64(p.addr)); len(p.b) > 0 && err != nil {
			return unix.EFAULT
		}
	}
	return 0
}

// asks remembers the name server that a stand-in was told to reach, as the
// kernel would give it back.
func (tw *twin) asks(s sockaddr, raw []byte) {
	size := unix.SizeofSockaddrInet4
	if s.family == unix.AF_INET6 {
		size = unix.SizeofSockaddrInet6
	}
	sa := slices.Clone(raw[:min(size, len(raw))])
	tw.asked.Store(&sa)
}

// number gives a free descriptor number for a stand-in. A process that has come
// near these numbers by itself gets none: a file that it opens meanwhile could
// land on it.
func (w *worker) number() (at int, ok bool) {
	free := func(fd int) bool {
		_, err := procfs.FDLink(w.n.TID, fd)
		return err != nil
	}
	if !free(StandInFirst - 1) {
		return 0, false
	}
	for at := StandInFirst; at < StandInFirst+standIns; at++ {
		if free(at) {
			return at, w.g.l.Valid(w.n.ID) == nil
		}
	}
	return 0, false
}
