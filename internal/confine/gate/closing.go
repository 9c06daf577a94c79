package gate

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A twin's close may be the last one of its socket: the agent can close its own
// end while its call is being answered. With SO_LINGER, which the agent may set at
// any moment, that close waits for the peer, and a peer inside need not read. A signal ends
// the wait (sk_stream_wait_close in net/core/stream.c), and the runtime does
// nothing about SIGURG. So closes are noted, and one that takes long is interrupted.
type closings struct {
	mu    sync.Mutex
	since map[int]time.Time // by thread
}

// closeWithin is how long a close may take, and how often that is looked at.
const closeWithin = 250 * time.Millisecond

var closing = closings{since: map[int]time.Time{}}

// close closes fd on the thread that it names meanwhile.
func (c *closings) close(fd int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := unix.Gettid()
	c.mu.Lock()
	c.since[tid] = time.Now()
	c.mu.Unlock()
	unix.Close(fd)
	c.mu.Lock()
	delete(c.since, tid)
	c.mu.Unlock()
}

// watch interrupts closes until quit is closed.
func (c *closings) watch(quit <-chan struct{}) {
	tick := time.NewTicker(closeWithin)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
			c.interrupt()
		}
	}
}

func (c *closings) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tid, since := range c.since {
		if time.Since(since) >= closeWithin {
			_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG) // a stray one does nothing
		}
	}
}
