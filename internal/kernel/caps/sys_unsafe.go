package caps

import (
	"fmt"
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

// threadIdentity sets groups, group and user of the calling thread alone, which
// the functions of package syscall do for all threads.
func threadIdentity(id Identity) error {
	list := make([]uint32, max(len(id.Groups), 1))
	for i, g := range id.Groups {
		list[i] = uint32(g)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(id.Groups)), uintptr(unsafe.Pointer(&list[0])), 0); e != 0 {
		return fmt.Errorf("groups: %w", e)
	}
	gid, uid := uintptr(id.GID), uintptr(id.UID)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return fmt.Errorf("group id: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return fmt.Errorf("user id: %w", e)
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
	{"capset(everything)", regain},
}

// regain asks for every capability of the lower half.
func regain() unix.Errno {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	all := unix.CapUserData{Effective: ^uint32(0), Permitted: ^uint32(0)}
	data := [2]unix.CapUserData{all, {}}
	_, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	return e
}
