package probe

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A child here is a copy of this process with one thread and no runtime: it
// makes the system calls of its program and ends. It blocks every signal,
// allocates nothing and never returns to Go code.

// filter notifies getppid and lets everything else pass.
var filter = [...]unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_GETPPID, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
	{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
}

// call is one system call of a child.
type call struct {
	nr   uintptr
	args [6]uintptr
}

// program is what a child does: the calls of the list, of each of which it
// writes the result (or the negative errno) to out, 8 bytes in host order.
type program struct {
	calls []call
	out   uintptr // descriptor
}

// fork starts a child that runs p and returns its process id. extra is
// CLONE_FILES for a child that shares this process's table of descriptors.
//
//go:norace
//go:noinline
func fork(p *program, extra uintptr) (pid int, e syscall.Errno) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	all, old := ^uint64(0), uint64(0)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	r, _, e := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(syscall.SIGCHLD)|extra, 0, 0, 0, 0, 0)
	if e == 0 && r == 0 {
		child(p)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	return int(r), e
}

//go:norace
//go:nosplit
func child(p *program) {
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	for i := 0; i < len(p.calls); i++ {
		c := &p.calls[i]
		r, _, e := syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		result := int64(r)
		if e != 0 {
			result = -int64(e)
		}
		syscall.RawSyscall(unix.SYS_WRITE, p.out, uintptr(unsafe.Pointer(&result)), 8)
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// installing is the call that loads the filter with a listener and more flags.
// The second value holds what the call points to and must be kept alive.
func installing(flags uintptr) (call, *unix.SockFprog) {
	f := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return call{unix.SYS_SECCOMP, [6]uintptr{unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, uintptr(unsafe.Pointer(f))}}, f
}

// tryListener lets a thread install a filter with a listener and end.
func tryListener() unix.Errno {
	result := make(chan unix.Errno)
	var attempt func()
	attempt = func() {
		// The thread ends with the goroutine, because it stays locked. The
		// process's first thread never ends, so it must be another one.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done := make(chan struct{})
			go func() { defer close(done); attempt() }()
			<-done
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			result <- unix.EPERM
			return
		}
		f := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		fd, _, e := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&f)))
		if e == 0 {
			unix.Close(int(fd))
		}
		result <- e
	}
	go attempt()
	return <-result
}

func addressOf(p *uint64) uintptr { return uintptr(unsafe.Pointer(p)) }
