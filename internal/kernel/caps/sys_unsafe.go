package caps

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// allThreadsPrctl calls prctl(option, arg, 0, 0, 0) on every thread of the
// process, those included that the runtime starts later.
func allThreadsPrctl(option int, arg uintptr) error {
	_, _, e := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, uintptr(option), arg, 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// allThreadsNoCaps empties the inheritable, permitted and effective set of
// every thread.
func allThreadsNoCaps() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	_, _, e := syscall.AllThreadsSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if e != 0 {
		return e
	}
	return nil
}

// waysBack are calls that must fail with EPERM on a thread that has given up
// root. Each is made on the calling thread only.
var waysBack = [...]struct {
	name string
	try  func() unix.Errno
}{
	{"setuid(0)", func() unix.Errno {
		_, _, e := unix.RawSyscall(unix.SYS_SETUID, 0, 0, 0)
		return e
	}},
	{"setresuid(-1, 0, -1)", func() unix.Errno {
		_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
		return e
	}},
	{"setgid(0)", func() unix.Errno {
		_, _, e := unix.RawSyscall(unix.SYS_SETGID, 0, 0, 0)
		return e
	}},
	{"setgroups(0)", func() unix.Errno {
		group := [1]uint32{0}
		_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group[0])), 0)
		return e
	}},
	{"capset(everything)", func() unix.Errno {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		all := unix.CapUserData{Effective: ^uint32(0), Permitted: ^uint32(0)}
		data := [2]unix.CapUserData{all, {}}
		_, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
		return e
	}},
}
