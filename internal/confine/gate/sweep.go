package gate

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/internal/kernel/procfs"
)

// sweeper drops the twins of sockets that no process of the sandbox holds any
// more: closing a socket is not a notified call, so it is found out in /proc.
// That costs the more the more processes there are, and an agent can ask for it
// at will. So sweeps take turns, and after each one there is a rest.
type sweeper struct {
	table   *table
	members func() []int
	quit    chan struct{} // closed when nobody waits any more

	turn  sync.Mutex
	begun atomic.Uint64 // number of sweeps that were begun
	rest  time.Time     // no sweep begins before; guarded by turn
	asked atomic.Bool   // one runs in the background
}

// restFactor is how long a sweep is followed by rest, in its own lengths: three
// of four parts of one core at least are left to the calls.
const restFactor = 3

// wait returns when a sweep that began after this call has ended, or false when
// the gate is being closed. Several waiters share one sweep.
func (s *sweeper) wait() bool {
	before := s.begun.Load()
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.begun.Load() > before {
		return true
	}
	select {
	case <-s.quit:
		return false
	default:
	}
	select {
	case <-s.quit:
		return false
	case <-time.After(time.Until(s.rest)):
	}
	s.begun.Add(1)
	start := time.Now()
	s.sweep()
	s.rest = time.Now().Add(restFactor * time.Since(start))
	return true
}

// soon has a sweep made in the background, if none is under way.
func (s *sweeper) soon(spawn func(func())) {
	if s.asked.CompareAndSwap(false, true) {
		spawn(func() {
			defer s.asked.Store(false)
			s.wait()
		})
	}
}

// sweep drops what was given away and is held by nobody. A socket that is in
// flight in a control message is dropped too; its receiver cannot connect it.
func (s *sweeper) sweep() {
	old := s.table.given()
	// Two passes: a socket may move to a child that was forked behind the first.
	held := map[uint64]bool{}
	for range 2 {
		for _, pid := range s.members() {
			socketsOf(pid, held)
		}
	}
	for inode, tw := range old {
		// One that a call has locked is left for the next time.
		if !held[inode] && tw.mu.TryLock() {
			s.table.dropLocked(inode, tw)
			tw.mu.Unlock()
		}
	}
	s.table.settled()
}

// socketsOf adds the inodes of the sockets that a process holds. A process that
// ends meanwhile holds none.
func socketsOf(pid int, held map[uint64]bool) {
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return
	}
	for _, n := range names {
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		if inode, err := procfs.SocketInode(pid, fd); err == nil {
			held[inode] = true
		}
	}
}
