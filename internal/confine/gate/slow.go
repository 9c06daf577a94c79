package gate

import (
	"time"

	"golang.org/x/sys/unix"
)

// How often a connect that takes long looks whether its caller still waits, and
// how soon it tries again where the other side's queue is full.
const (
	lookAgain = 50 * time.Millisecond
	tryAgain  = 2 * time.Millisecond
)

// slowly makes a connection that may take long, on a goroutine of its own. The
// twin is not locked meanwhile, so that other calls about it are answered
// (EALREADY) instead of holding up the worker. A socket that blocks is made not
// to for so long: nobody can be in a read or write on it, and a wait in the
// kernel could not be ended with the sandbox.
func (w *worker) slowly(tw *twin, inode uint64, connect func(fd int) unix.Errno) verdict {
	tw.mu.Lock()
	if tw.done || tw.busy {
		defer tw.mu.Unlock()
		if tw.busy {
			return fail(unix.EALREADY)
		}
		return fail(unix.EISCONN)
	}
	fd, err := unix.FcntlInt(uintptr(tw.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		tw.mu.Unlock()
		return fail(errnoOf(err))
	}
	tw.busy = true
	tw.mu.Unlock()
	defer unix.Close(fd)
	errno := w.unhurried(fd, connect)

	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.busy = false
	if tw.done {
		return fail(unix.ECONNABORTED) // swept: nobody holds it any more
	}
	if errno != 0 && errno != unix.EINPROGRESS {
		return fail(errno)
	}
	w.finish("connect", inode, tw, errno)
	return answered
}

// unhurried connects fd, which it borrows, as the caller's own socket would: at
// once where that does not block.
func (w *worker) unhurried(fd int, connect func(fd int) unix.Errno) unix.Errno {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return errnoOf(err)
	}
	if flags&unix.O_NONBLOCK != 0 {
		return connect(fd)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_NONBLOCK); err != nil {
		return errnoOf(err)
	}
	defer unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	for {
		errno := connect(fd)
		switch errno {
		case unix.EINPROGRESS:
			return w.established(fd)
		case unix.EAGAIN: // a unix socket whose queue is full
			if !w.waits(tryAgain) {
				return unix.EINTR
			}
		default:
			return errno
		}
	}
}

// established waits for the end of a TCP handshake.
func (w *worker) established(fd int) unix.Errno {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p, int(lookAgain/time.Millisecond))
		switch {
		case err != nil && err != unix.EINTR:
			return errnoOf(err)
		case n > 0:
			v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err != nil {
				return errnoOf(err)
			}
			return unix.Errno(v)
		case !w.waits(0):
			return unix.EINTR
		}
	}
}

// waits sleeps and says whether the caller still waits, and the gate still
// answers.
func (w *worker) waits(d time.Duration) bool {
	select {
	case <-w.g.sweeper.quit:
		return false
	case <-time.After(d):
	}
	return w.g.l.Valid(w.n.ID) == nil
}
