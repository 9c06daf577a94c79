// Package notify answers system calls that a seccomp filter hands over: one
// [Listener] owns the descriptor that seccomp(2) returns for
// SECCOMP_FILTER_FLAG_NEW_LISTENER, receives stopped calls and answers them.
//
// Not here: which calls are stopped (the filter), what they are answered (the
// gate), and reading the caller's memory (procfs).
//
// What must hold:
//   - A pointer argument is never judged and then left to the kernel to read
//     again: whoever looked at the caller's memory performs the call itself or
//     refuses. [Listener.Continue] is for register arguments alone.
//   - What is read about a caller (memory, /proc) counts only if [Listener.Valid]
//     says afterwards that the caller still waits: its thread id may have been
//     given to another thread meanwhile.
//   - A listener that is closed, or whose owner dies, makes every waiting and every
//     later notified call fail with ENOSYS: closed, never open.
package notify

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var (
	// ErrGone: no process uses the filter any more, no notification can come.
	ErrGone = errors.New("notify: every user of the filter is gone")

	// ErrDead: the call does not wait for an answer any more, because the caller
	// died or a signal took it out of the call. Nothing is left to be answered.
	ErrDead = errors.New("notify: the caller does not wait any more")

	// ErrClosed: the listener was closed on our side. It is an os.ErrClosed.
	ErrClosed = fmt.Errorf("notify: listener: %w", os.ErrClosed)
)

// Notification is one stopped system call.
type Notification struct {
	ID   uint64    // names this call in every answer; unique per listener
	TID  int       // thread that made the call, in our pid namespace; 0 if it is outside of it
	Nr   int       // number of the system call
	Arch uint32    // AUDIT_ARCH_* of the call
	IP   uint64    // instruction pointer of the call
	Args [6]uint64 // registers; only the low 32 bits count where the kernel takes an int
}

// Listener is a seccomp notification descriptor. All methods may be called from
// several goroutines at once. None of them allocates, apart from errors that are
// not one of the sentinels of this package.
type Listener struct {
	mu      sync.RWMutex // read: the number fd is in use; write: it is taken away
	fd      int          // -1 after Close; guarded by mu
	closing atomic.Bool
	blocked threads
}

// New makes a listener of a seccomp notification descriptor and takes ownership
// of it. It does not look at the descriptor.
func New(fd int) *Listener {
	return &Listener{fd: fd}
}

// Recv waits for the next stopped call and writes it to n.
//
// It blocks its OS thread in one ioctl, on purpose: waiting through the runtime's
// poller costs 30 µs more on each call. It returns [ErrGone] when no process uses the
// filter any more and [ErrClosed] when the listener was closed. Kernels before
// Linux 6.11 do not end the wait when the last user goes: there, whoever knows of
// that closes the listener.
//
// A goroutine that calls Recv in a loop should be locked to its thread: the
// answer then leaves from a thread that is still warm.
func (l *Listener) Recv(n *Notification) error {
	slot, err := l.enter()
	if err != nil {
		return err
	}
	defer l.leave(slot)
	for !l.stopped() {
		switch errno := ioctlRecv(l.fd, n); errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.ENOENT:
			// Either the caller died before we read its call, or all users are gone.
			if hangup(l.fd) {
				return l.gone()
			}
		default:
			return l.fail("receive", errno)
		}
	}
	return ErrClosed
}

// Respond answers the call id: it returns val, or fails with errno when errno is
// not 0. [ErrDead] means that nobody waits for the answer.
//
// nil does not promise that the caller saw the answer, unless the filter was installed
// with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: without it a signal may take the caller
// out of the call at the last moment, the kernel restarts the call, and the same call
// is notified again. The same holds for [Listener.AddFDSend].
func (l *Listener) Respond(id uint64, val int64, errno unix.Errno) error {
	return l.send(response{id: id, val: val, errno: -int32(errno)})
}

// Continue lets the kernel perform the call id as if it had not been stopped. It is
// legal only when nothing but registers was judged: the kernel reads the caller's
// memory again, and another thread may have changed it since.
func (l *Listener) Continue(id uint64) error {
	return l.send(response{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

func (l *Listener) send(r response) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.stopped() {
		return ErrClosed
	}
	return l.result("respond", ioctlSend(l.fd, &r))
}

// Valid reports whether the call id still waits: nil if so, else [ErrDead]. Whatever
// was read about the caller before a nil was read from the caller itself.
func (l *Listener) Valid(id uint64) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.stopped() {
		return ErrClosed
	}
	return l.result("check", ioctlValid(l.fd, id))
}

// AddFD gives the caller of id a copy of our descriptor fd, at the lowest free
// number of its table, and returns that number. The call stays stopped and must
// still be answered. fd is borrowed. It waits until the caller's thread has done its part,
// and fails with the caller's errno when its table is full (EMFILE).
func (l *Listener) AddFD(id uint64, fd int, cloexec bool) (newfd int, err error) {
	return l.addFD(addFD{id: id}, fd, cloexec)
}

// AddFDAt is [Listener.AddFD] with a chosen number: what the caller had open
// at this number is replaced, as dup2 would.
func (l *Listener) AddFDAt(id uint64, fd, at int, cloexec bool) error {
	if at < 0 || at > math.MaxInt32 {
		return fmt.Errorf("notify: add descriptor: %d is not a descriptor number", at)
	}
	_, err := l.addFD(addFD{id: id, flags: unix.SECCOMP_ADDFD_FLAG_SETFD, newfd: uint32(at)}, fd, cloexec)
	return err
}

// AddFDSend gives the caller of id a copy of our descriptor fd and answers the call
// with its number, in one step that the caller cannot come between (Linux 5.14).
// After an error other than [ErrDead] the call still waits and must be answered.
func (l *Listener) AddFDSend(id uint64, fd int, cloexec bool) (newfd int, err error) {
	return l.addFD(addFD{id: id, flags: unix.SECCOMP_ADDFD_FLAG_SEND}, fd, cloexec)
}

func (l *Listener) addFD(a addFD, fd int, cloexec bool) (int, error) {
	slot, err := l.enter()
	if err != nil {
		return -1, err
	}
	defer l.leave(slot)
	if l.stopped() {
		return -1, ErrClosed
	}
	if fd < 0 || fd > math.MaxInt32 {
		return -1, fmt.Errorf("notify: add descriptor: %d is not a descriptor number", fd)
	}
	a.srcfd = uint32(fd)
	if cloexec {
		a.newfdFlags = unix.O_CLOEXEC
	}
	newfd, errno := ioctlAddFD(l.fd, &a)
	if errno != 0 {
		return -1, l.result("add descriptor", errno)
	}
	return newfd, nil
}

// SetSyncWakeUp tells the kernel that caller and answerer take turns, so that each
// wakes the other on its own CPU: 6 µs for a notified call instead of 22 to 35.
// Kernels before Linux 6.6 refuse it with an error that wraps EINVAL or ENOTTY; all
// else works without it.
func (l *Listener) SetSyncWakeUp() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.stopped() {
		return ErrClosed
	}
	return l.result("set synchronous wake-up", ioctlSetFlags(l.fd, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP))
}

// result turns the errno of an answer into an error.
func (l *Listener) result(what string, errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.ENOENT:
		return ErrDead
	}
	return l.fail(what, errno)
}

func (l *Listener) fail(what string, errno unix.Errno) error {
	if l.closing.Load() {
		return ErrClosed
	}
	return fmt.Errorf("notify: %s: %w", what, errno)
}

func (l *Listener) gone() error {
	if l.closing.Load() {
		return ErrClosed
	}
	return ErrGone
}

// stopped needs mu held for reading.
func (l *Listener) stopped() bool {
	return l.fd < 0 || l.closing.Load()
}
