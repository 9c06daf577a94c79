package testkit

import (
	"golang.org/x/sys/unix"
)

// landlockABI asks for the version of Landlock; it changes nothing.
func landlockABI() (int, unix.Errno) {
	v, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return int(v), errno
}
