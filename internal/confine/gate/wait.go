package gate

import (
	"time"

	"golang.org/x/sys/unix"
)

// A call that takes its time must not hold up others. So the worker that takes
// calls never waits: not for a peer, not for a twin that another call has
// locked, not for room. What has to wait is handed to a goroutine of its own,
// and how many of them there are is bounded.

// slice is how long a waiting call sleeps before it looks whether its caller
// still lives and the gate is still open.
const slice = 100 * time.Millisecond

// later hands a call that may wait for somebody else to a goroutine. When too
// many wait already, the call is refused with full.
func (w *worker) later(call string, full unix.Errno, do func(*worker) verdict) verdict {
	select {
	case w.g.slots <- struct{}{}:
	default:
		return refuse(full, "", "too many calls of this sandbox are waiting")
	}
	own := &worker{g: w.g, n: w.n, buf: make([]byte, maxSockaddr), patient: true}
	w.g.workers.Go(func() {
		defer func() { <-w.g.slots }()
		own.reply(call, own.guarded(handler{call, do}))
	})
	return answered
}

// lock takes the twin for one call. It reports false if another call has it and
// this worker may not wait: then the call is to be done later.
func (w *worker) lock(tw *twin) bool {
	if w.patient {
		tw.mu.Lock()
		return true
	}
	return tw.mu.TryLock()
}

// waits reports whether the caller is still there to be waited for.
func (w *worker) waits() bool { return w.g.l.Valid(w.n.ID) == nil }

// patience is when the agent's own limit for a connect ends, SO_SNDTIMEO as the
// kernel uses it; the zero time if there is none.
func patience(fd int) time.Time {
	tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO)
	if err != nil || tv.Nano() == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(tv.Nano()))
}

func over(end time.Time) bool { return !end.IsZero() && !time.Now().Before(end) }

// unblocked runs a call on fd that does not wait, although the agent's socket
// does: the two share one file, so the flag is put back at once. The agent may have
// changed it meanwhile, which waits is about. It reports whether the agent wanted to
// wait.
func unblocked(fd int, do func() unix.Errno) (errno unix.Errno, blocking bool) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return errnoOf(err), false
	}
	if flags&unix.O_NONBLOCK != 0 {
		return waiting.during(fd, do), false
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_NONBLOCK); err != nil {
		return errnoOf(err), true
	}
	errno = waiting.during(fd, do)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags); err != nil && errno == 0 {
		errno = errnoOf(err)
	}
	return errno, true
}

// writable waits a slice for fd to become writable, as a socket does whose
// connection is made or has failed.
func writable(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p[:], int(slice.Milliseconds()))
	return err == nil && n > 0
}
