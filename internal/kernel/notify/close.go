package notify

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxBlocked is how many goroutines may block on one listener at a time.
const maxBlocked = 64

var errTooMany = errors.New("notify: too many goroutines block on one listener")

// threads holds the ids of the threads that may be blocked on the descriptor.
type threads [maxBlocked]atomic.Int32

// enter begins a use of the descriptor that may block: the goroutine stays on its
// thread, and Close knows that thread. It must be followed by leave.
func (l *Listener) enter() (slot int, err error) {
	runtime.LockOSThread()
	l.mu.RLock()
	tid := int32(unix.Gettid())
	for i := range l.blocked {
		if l.blocked[i].CompareAndSwap(0, tid) {
			return i, nil
		}
	}
	l.mu.RUnlock()
	runtime.UnlockOSThread()
	return -1, errTooMany
}

func (l *Listener) leave(slot int) {
	l.blocked[slot].Store(0)
	l.mu.RUnlock()
	runtime.UnlockOSThread()
}

// interrupt sends SIGURG to every blocked thread. The Go runtime uses that signal
// itself to preempt goroutines, so that a stray one does nothing.
func (r *threads) interrupt() {
	pid := unix.Getpid()
	for i := range r {
		if tid := r[i].Load(); tid != 0 {
			_ = unix.Tgkill(pid, int(tid), unix.SIGURG) // it may have left already
		}
	}
}

// Close gives the descriptor back and ends every Recv with [ErrClosed].
// Calls that wait for an answer, and all that come later, fail with ENOSYS. A second
// Close returns ErrClosed.
//
// A thread that is blocked in the ioctl keeps the open file alive, and the kernel
// restarts the ioctl after a signal. So the number is first made to mean something
// else, atomically, and then the threads are interrupted: a restarted wait finds a dead
// pipe (ENOTTY, POLLHUP) instead of the listener. The number is released when
// nobody uses it any more.
func (l *Listener) Close() error {
	if l.closing.Swap(true) {
		return ErrClosed
	}
	if err := bury(l.fd); err != nil { // fd changes below alone, after closing was won
		l.closing.Store(false)
		return fmt.Errorf("notify: close: %w", err)
	}
	l.blocked.interrupt()
	l.mu.Lock()
	defer l.mu.Unlock()
	err := unix.Close(l.fd)
	l.fd = -1
	return err
}

// bury replaces what fd means by the read end of a pipe without a writer.
func bury(fd int) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	for {
		err := unix.Dup3(p[0], fd, unix.O_CLOEXEC)
		if err != unix.EINTR && err != unix.EBUSY {
			return err
		}
	}
}

// hangup says whether fd has POLLHUP, as a listener has when no process uses its
// filter. An interrupted look is false.
func hangup(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p[:], 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}
