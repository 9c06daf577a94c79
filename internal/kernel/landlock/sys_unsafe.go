package landlock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rulesetAttr is struct landlock_ruleset_attr up to the fields that are used
// here. The kernel takes any length that it knows.
type rulesetAttr struct {
	fs, net, scoped uint64
}

// size is the length of the attribute without zeros at its end, so that an old
// kernel does not refuse a structure for fields that are not used.
func (a *rulesetAttr) size() uintptr {
	switch {
	case a.scoped != 0:
		return unsafe.Sizeof(*a)
	case a.net != 0:
		return unsafe.Offsetof(a.scoped)
	}
	return unsafe.Offsetof(a.net)
}

// pathAttr is struct landlock_path_beneath_attr. It is packed, 12 bytes, so the
// 4 bytes that Go adds are never read.
type pathAttr struct {
	access uint64
	fd     int32
}

// portAttr is struct landlock_net_port_attr.
type portAttr struct {
	access, port uint64
}

func createRuleset(a *rulesetAttr, size, flags uintptr) (int, unix.Errno) {
	n, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(a)), size, flags)
	return int(n), e
}

func addPath(fd, pathFD int, access uint64) unix.Errno {
	a := pathAttr{access, int32(pathFD)}
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(fd), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&a)), 0, 0, 0)
	return e
}

func addPort(fd int, port uint16, access uint64) unix.Errno {
	a := portAttr{access, uint64(port)}
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(fd), ruleNetPort,
		uintptr(unsafe.Pointer(&a)), 0, 0, 0)
	return e
}

func restrictSelf(fd int, flags uintptr) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd), flags, 0)
	return e
}

// ruleNetPort is LANDLOCK_RULE_NET_PORT.
const ruleNetPort = 2
