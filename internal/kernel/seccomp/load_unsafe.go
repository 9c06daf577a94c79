package seccomp

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Load installs a filter for the calling thread, for ever. flags are
// SECCOMP_FILTER_FLAG_ values; with NEW_LISTENER the result is the notification
// descriptor, owned by the caller, else 0. The goroutine must be locked to its
// thread, and the thread must have no_new_privs. Errors wrap the errno of seccomp(2).
//
// It is for probes and tests, in processes made for it: the agent's filter is
// loaded between fork and exec, by a table of raw calls.
func Load(filter []unix.SockFilter, flags uintptr) (fd int, err error) {
	if len(filter) == 0 || len(filter) > maxInstructions {
		return -1, fmt.Errorf("seccomp: %d instructions, expected 1 to %d", len(filter), maxInstructions)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	r, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	switch {
	case errno != 0:
		return -1, fmt.Errorf("seccomp: load filter: %w", errno)
	case flags&unix.SECCOMP_FILTER_FLAG_TSYNC != 0 && r != 0 && flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER == 0:
		return -1, fmt.Errorf("seccomp: load filter: thread %d cannot take it", r)
	}
	return int(r), nil
}
