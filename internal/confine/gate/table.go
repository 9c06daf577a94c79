package gate

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// kind is what a brokered socket was asked for as.
type kind uint8

const (
	kindStream4 kind = iota
	kindStream6
	kindUnix
	kindNetlink
	kindDatagram // a stand-in for a UDP socket, one end of a packet pair
	kindMessage  // the same for a unix datagram socket
)

// twin is the supervisor's hold on a socket of the agent.
type twin struct {
	kind     kind
	fd       int // owned; -1 for a stand-in that was given away
	mu       sync.Mutex
	bound    netip.AddrPort // where bind put it
	under    netip.AddrPort // what is wanted by a connect that is under way,
	to       netip.AddrPort // and where it leads
	follow   Follower       // of the last one; nil if nobody does
	file     bool           // a pathname unix socket is bound
	peer     netip.AddrPort // what the agent asked for, if it is to be told so
	dgram    Datagrams
	messages *messages              // of a kindMessage
	asked    atomic.Pointer[[]byte] // of a stand-in: the name server that was asked last, a sockaddr
	done     bool                   // connected or listening: fd is closed
	inode    atomic.Uint64
	given    atomic.Bool // the agent has its end; before that no sweep may drop it
}

// maxConnected is how many finished sockets are remembered.
const maxConnected = 16384

// crowd is how many twins there must be before a sweep is worth it.
const crowd = 256

// table files twins under the inode number of their socket. An inode number
// names one open socket at a time; a descriptor that changes under the reader
// only means another socket of this table.
type table struct {
	mu    sync.Mutex
	twins map[uint64]*twin
	swept int // twins left after the last sweep
	most  int // bounds the supervisor's descriptors and memory

	// connected remembers sockets whose twin was let go, so that a second
	// connect says EISCONN, and so that an answer lost to a signal can be given
	// again. A ring keeps it small.
	connected map[uint64]outcome
	ring      []uint64
	next      int
}

// outcome is the answer that a finished socket gave, kept while the caller may
// not have heard it.
type outcome struct {
	errno unix.Errno
	heard bool
	by    call           // who alone may not have heard it; nobody: whoever calls next
	peer  netip.AddrPort // what the agent asked for, where that is not what it got
	six   bool           // by an IPv6 socket
}

func (t *table) init(most int) {
	t.most = most
	t.twins = map[uint64]*twin{}
	t.connected = map[uint64]outcome{}
	t.ring = make([]uint64, maxConnected)
}

func (t *table) find(inode uint64) *twin {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.twins[inode]
}

// add files a twin. It reports false, and has taken nothing, when the table is
// full; crowded says that a sweep is due.
func (t *table) add(inode uint64, tw *twin) (added, crowded bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	crowded = len(t.twins) >= crowd && len(t.twins) >= 2*t.swept
	if len(t.twins) >= t.most {
		return false, true
	}
	delete(t.connected, inode) // an inode number comes back only as another socket
	t.twins[inode] = tw
	tw.inode.Store(inode)
	return true, crowded
}

// finish lets go of a twin: from now on the agent alone holds the socket, so
// that its close is the connection's end.
func (t *table) finish(inode uint64, tw *twin) {
	t.mu.Lock()
	if t.twins[inode] == tw {
		delete(t.twins, inode)
	}
	if old := t.ring[t.next]; old != 0 {
		delete(t.connected, old)
	}
	t.ring[t.next] = inode
	t.next = (t.next + 1) % len(t.ring)
	t.connected[inode] = outcome{heard: true, peer: tw.peer, six: tw.kind == kindStream6}
	t.mu.Unlock()
	tw.release()
}

// release closes the twin's descriptor. The caller holds mu, or the twin alone.
func (tw *twin) release() {
	if tw.fd >= 0 {
		waiting.close(tw.fd)
		tw.fd = -1
	}
	tw.done = true
}

// call is what stays the same when the kernel restarts a call.
type call struct {
	tid  int
	ip   uint64
	args [3]uint64
}

// unheard keeps an answer that the caller was not there to take, because a
// signal interrupted its call: the call comes again. by, if it is somebody, says that
// the kernel took the answer and may have lost it.
func (t *table) unheard(inode uint64, errno unix.Errno, by call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o, known := t.connected[inode]; known {
		o.errno, o.heard, o.by = errno, false, by
		t.connected[inode] = o
	}
}

// replay gives the answer of a finished socket: once the one that was lost,
// after that whether it is known at all.
func (t *table) replay(inode uint64, to call) (o outcome, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, known = t.connected[inode]
	if o.by != (call{}) && o.by != to {
		o.heard = true // by this caller, who asks something of its own
	} else if known && !o.heard {
		heard := o
		heard.heard = true
		t.connected[inode] = heard
	}
	return o, known
}

// peerOf is what the agent asked for when it connected a socket.
func (t *table) peerOf(inode uint64) (o outcome, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o = t.connected[inode]
	return o, o.peer.IsValid()
}

// dropTwin forgets a twin without an outcome, when its agent end was never made
// or is gone.
func (t *table) dropTwin(inode uint64, tw *twin) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	t.dropLocked(inode, tw)
}

// dropLocked is dropTwin for a caller who holds the twin's mu.
func (t *table) dropLocked(inode uint64, tw *twin) {
	t.mu.Lock()
	if t.twins[inode] == tw {
		delete(t.twins, inode)
	}
	t.mu.Unlock()
	tw.release()
}

// forget drops a stand-in whose agent end is gone.
func (t *table) forget(tw *twin) {
	if inode := tw.inode.Load(); inode != 0 {
		t.dropTwin(inode, tw)
	}
}

// given is every twin whose other end the agent has had.
func (t *table) given() map[uint64]*twin {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := make(map[uint64]*twin, len(t.twins))
	for inode, tw := range t.twins {
		if tw.given.Load() {
			old[inode] = tw
		}
	}
	return old
}

// settled notes that what is filed now was held a moment ago.
func (t *table) settled() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.swept = len(t.twins)
}

// close drops every twin but those of calls that are held up.
func (t *table) close() {
	t.mu.Lock()
	all := maps.Clone(t.twins)
	t.mu.Unlock()
	for inode, tw := range all {
		if tw.mu.TryLock() {
			t.dropLocked(inode, tw)
			tw.mu.Unlock()
		}
	}
}
