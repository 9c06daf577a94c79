package stage

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The three hooks of the runtime that os/exec uses around fork. They block
// signals and stack growth in the forking thread, and reset the handlers in
// the child.
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// failure is what a child writes to the error pipe: which table, which step,
// which errno.
type failure struct {
	table, step, errno uint32
}

// message is one record that the guard writes to the control socket.
type message struct {
	kind  uint32
	value uint32
}

const (
	msgPID    = 1 // value is the agent's process id
	msgStatus = 2 // value is the agent's wait status
)

// sigset is the kernel's signal set on 64-bit machines.
type sigset uint64

func (s *sigset) add(sig syscall.Signal) { *s |= 1 << (uint(sig) - 1) }

// fork makes the guard, which makes the agent. It returns the guard's process
// id in the parent and never returns in a child. Everything that runs in a
// child is free of allocation, of stack growth and of the race detector: the
// child has one thread and half a runtime.
//
// Precondition: the calling thread is locked and p is not changed until fork
// has returned.
//
//go:noinline
//go:norace
//go:nocheckptr
func fork(p *program) (uintptr, syscall.Errno) {
	beforeFork()
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	if i, e := runSteps(p.guard); e != 0 {
		fail(p.errPipe, tableGuard, i, e)
	}
	self, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	*p.guardPID = int64(self) // in the guard's own memory
	agent := spawn(&p.calls[0], uintptr(len(p.calls)), uintptr(unsafe.Pointer(&p.stack[len(p.stack)-1])), agentErrFD)
	if agent < 0 {
		fail(p.errPipe, tableGuard, uint32(len(p.guard)), uint32(-agent))
	}
	guard(p, uintptr(agent))
	return 0, 0
}

// call is a step in the form that spawn reads.
type call struct {
	nr   uintptr
	args [6]uintptr
	want int64   // what it must return; an error is negative
	any  uintptr // not 0: anything but an error will do instead
}

// callsOf turns a table into calls.
func callsOf(steps []Step) []call {
	out := make([]call, len(steps))
	for i, s := range steps {
		out[i] = call{nr: s.Nr, args: s.Args, want: s.Want}
		switch {
		case s.Errno != 0:
			out[i].want = -int64(s.Errno)
		case s.Want < 0:
			out[i].any = 1
		}
	}
	return out
}

// spawn makes a child that makes n calls, the last of which is execve. It shares
// the caller's memory until then, and the caller stands still: no memory is copied
// for a program that is about to replace it. stack is the child's, it grows down.
// A call that returns anything but what it is to return ends the child, with a
// failure written to errFD. spawn returns the child's process id or a negative
// errno, once the child has executed its command or has ended.
//
//go:noescape
func spawn(calls *call, n, stack, errFD uintptr) int64

// runSteps makes the calls of a table in order and stops at the first one that
// does not return what its step wants.
//
//go:nosplit
//go:norace
//go:nocheckptr
func runSteps(steps []Step) (uint32, uint32) {
	for i := 0; i < len(steps); i++ {
		s := &steps[i]
		r, _, e := syscall.RawSyscall6(s.Nr, s.Args[0], s.Args[1], s.Args[2], s.Args[3], s.Args[4], s.Args[5])
		switch {
		case s.Errno != 0 && e != s.Errno:
			if e == 0 {
				e = syscall.EPROTO
			}
			return uint32(i), uint32(e)
		case s.Errno == 0 && e != 0:
			return uint32(i), uint32(e)
		case s.Errno == 0 && s.Want >= 0 && int64(r) != s.Want:
			return uint32(i), uint32(syscall.EPROTO)
		}
	}
	return uint32(len(steps)), 0
}

//go:nosplit
//go:norace
func fail(fd uintptr, table, step, errno uint32) {
	f := failure{table, step, errno}
	syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&f)), unsafe.Sizeof(f))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 125, 0, 0)
	}
}

//go:nosplit
//go:norace
func tell(fd uintptr, kind, value uint32) {
	m := message{kind, value}
	syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m), unix.MSG_NOSIGNAL, 0, 0)
}

// guard is the life of the agent's parent: it tells the supervisor who the
// agent is, lets go of every descriptor but the control socket, reaps, and ends
// the whole sandbox when the agent or the supervisor has ended.
//
//go:nosplit
//go:norace
//go:nocheckptr
func guard(p *program, agent uintptr) {
	tell(p.control, msgPID, uint32(agent))
	runSteps(p.release)
	for {
		var status uint32
		sig, _, _ := syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&p.wait)), 0, 0, unsafe.Sizeof(p.wait), 0, 0)
		if syscall.Signal(sig) == stopSignal {
			break
		}
		if reap(agent, &status) {
			tell(p.kept, msgStatus, status)
			break
		}
	}
	killAll(p)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// reap collects every child that has ended and says whether the agent was
// among them.
//
//go:nosplit
//go:norace
func reap(agent uintptr, status *uint32) bool {
	for {
		var st uint32
		pid, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&st)), unix.WNOHANG, 0, 0, 0)
		if e != 0 || pid == 0 {
			return false
		}
		if pid == agent {
			*status = st
			return true
		}
	}
}

// killAll ends everything below the guard and returns when nothing is left.
// Orphans come to the guard because it is their subreaper: without a child of
// its own it has no descendants, and killing what is its child, again and again,
// reaches the whole tree. Where the signal scope of its Landlock domain was
// proved, kill(-1) does it in one call that no fork can outrun; that call looks
// at every process of the host, so it is not made for nobody, nor anew for each
// of many that are dying.
//
//go:nosplit
//go:norace
func killAll(p *program) {
	for !childless(unix.WNOHANG) {
		n := uintptr(1024)
		if p.scoped {
			syscall.RawSyscall(unix.SYS_KILL, ^uintptr(0), uintptr(syscall.SIGKILL), 0)
		} else {
			n = max(killChildren(p), 1)
		}
		for ; n > 0; n-- {
			if childless(0) {
				return
			}
		}
	}
}

// childless reaps one child, for which it waits unless flags say otherwise, and
// says whether there was none. Anything but a clear answer is a child.
//
//go:nosplit
//go:norace
func childless(flags uintptr) bool {
	var st uint32
	_, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&st)), flags, 0, 0, 0)
	return e == syscall.ECHILD
}

// killChildren kills the children that /proc/thread-self/children lists, and
// returns how many.
//
//go:nosplit
//go:norace
func killChildren(p *program) (killed uintptr) {
	fd, _, e := syscall.RawSyscall6(unix.SYS_OPENAT, atFDCWD, uintptr(unsafe.Pointer(&p.childrenPath[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if e != 0 {
		return 0
	}
	pid := uintptr(0)
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&p.buf[0])), uintptr(len(p.buf)))
		if e != 0 || n == 0 || n > uintptr(len(p.buf)) {
			break
		}
		for i := uintptr(0); i < n; i++ {
			if c := p.buf[i]; c >= '0' && c <= '9' {
				pid = pid*10 + uintptr(c-'0')
				continue
			}
			if pid > 1 {
				syscall.RawSyscall(unix.SYS_KILL, pid, uintptr(syscall.SIGKILL), 0)
				killed++
			}
			pid = 0
		}
	}
	syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	return killed
}

const atFDCWD = ^uintptr(99) // AT_FDCWD, -100
