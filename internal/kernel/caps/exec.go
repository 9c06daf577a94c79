package caps

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaches tells whether [DropTo] can reach every thread of this program. A
// program with C threads (CGO_ENABLED=1) has some that it cannot.
func Reaches() bool {
	_, _, e := syscall.AllThreadsSyscall(syscall.SYS_GETPPID, 0, 0, 0)
	return e != syscall.ENOTSUP
}

// ExecAs replaces this process by the program path, run as id without any
// privilege. It is for programs that [Reaches] is false for: one thread gives
// root up, has that proved, and becomes the new program, which ends all the
// others (execve(2)). It needs what DropTo needs, and returns only with an
// error, after which the process is good for nothing but to end.
func ExecAs(id Identity, path string, argv, env []string) error {
	if id.UID <= 0 || id.GID <= 0 {
		return fmt.Errorf("caps: uid %d and gid %d, expected both above 0", id.UID, id.GID)
	}
	last, err := Last()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := threadBecomes(id, last); err != nil {
		return fmt.Errorf("caps: giving up root: %w", err)
	}
	if err := noWayBack(); err != nil {
		return err
	}
	t, err := readThread("/proc/thread-self/status")
	if err == nil {
		err = t.is(id.UID, id.GID, id.Groups)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKept, err)
	}
	return fmt.Errorf("caps: execve %s: %w", path, syscall.Exec(path, argv, env))
}

// threadBecomes gives root up on the calling thread alone.
func threadBecomes(id Identity, last int) error {
	var errs []error
	for c := 0; c <= last; c++ {
		errs = append(errs, unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0))
	}
	errs = append(errs,
		unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
		threadIdentity(id),
		unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &make([]unix.CapUserData, 2)[0]),
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
	)
	return errors.Join(errs...)
}
