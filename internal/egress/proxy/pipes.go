package proxy

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Bounds of the pipes that bulk data passes through. A pipe is two descriptors
// and counts against the user's /proc/sys/fs/pipe-user-pages-soft (64 MiB by
// default): above that limit every new pipe of that user is a single page. So
// pipes are few, and lent only while bytes flow.
const (
	maxPipes = 32
	pipeSize = 512 << 10
)

// pipe is a kernel buffer between two sockets.
type pipe struct{ r, w int }

// pipes lends pipes. The zero value is ready; close it when nobody borrows.
type pipes struct {
	mu   sync.Mutex
	free []pipe
	made int
	shut bool
}

// get lends an empty pipe; it is false if there is none to be had, which is no
// error: bytes can be copied instead.
func (p *pipes) get() (pipe, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		v := p.free[n-1]
		p.free = p.free[:n-1]
		return v, true
	}
	if p.made >= maxPipes || p.shut {
		return pipe{}, false
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return pipe{}, false
	}
	// Larger than the default if the user's share allows it.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	p.made++
	return pipe{fds[0], fds[1]}, true
}

// put takes an empty pipe back.
func (p *pipes) put(v pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		p.discard(v)
		return
	}
	p.free = append(p.free, v)
}

// drop takes a pipe back that still holds bytes, and closes it.
func (p *pipes) drop(v pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.discard(v)
}

func (p *pipes) discard(v pipe) {
	unix.Close(v.r)
	unix.Close(v.w)
	p.made--
}

// close closes the pipes that are not lent; the others close when they return.
func (p *pipes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	for _, v := range p.free {
		p.discard(v)
	}
	p.free = nil
}
