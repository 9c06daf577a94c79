package probe

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// trial is a system call with arguments that can have no effect, and that the
// kernel itself answers with neither EPERM nor ENOSYS if it has the call at all.
type trial struct {
	name string
	call call
}

const (
	none   = ^uintptr(0) // -1: no descriptor, no process, every flag
	badBit = 1 << 30     // a flag that no call here knows
)

// trials are calls that the walls use, or that a container's profile is known
// to refuse. Where the kernel looks for a privilege before it looks at the
// arguments, a call tells nothing and is not here.
var trials = [...]trial{
	{"landlock_create_ruleset", call{unix.SYS_LANDLOCK_CREATE_RULESET, [6]uintptr{0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION}}},
	{"landlock_add_rule", call{unix.SYS_LANDLOCK_ADD_RULE, [6]uintptr{none, 1, 0, badBit}}},
	{"landlock_restrict_self", call{unix.SYS_LANDLOCK_RESTRICT_SELF, [6]uintptr{none, badBit}}},
	{"seccomp", call{unix.SYS_SECCOMP, [6]uintptr{none}}},
	{"pidfd_open", call{unix.SYS_PIDFD_OPEN, [6]uintptr{none}}},
	{"pidfd_send_signal", call{unix.SYS_PIDFD_SEND_SIGNAL, [6]uintptr{none}}},
	{"pidfd_getfd", call{unix.SYS_PIDFD_GETFD, [6]uintptr{none}}},
	{"process_vm_readv", call{unix.SYS_PROCESS_VM_READV, [6]uintptr{none, 0, 0, 0, 0, badBit}}},
	{"process_vm_writev", call{unix.SYS_PROCESS_VM_WRITEV, [6]uintptr{none, 0, 0, 0, 0, badBit}}},
	{"ptrace", call{unix.SYS_PTRACE, [6]uintptr{none, 0}}},
	{"kcmp", call{unix.SYS_KCMP, [6]uintptr{none, none}}},
	{"clone3", call{unix.SYS_CLONE3, [6]uintptr{}}},
	{"unshare", call{unix.SYS_UNSHARE, [6]uintptr{0}}},
	{"setns", call{unix.SYS_SETNS, [6]uintptr{none}}},
	{"mount", call{unix.SYS_MOUNT, [6]uintptr{}}},
	{"umount2", call{unix.SYS_UMOUNT2, [6]uintptr{0, badBit}}},
	{"open_tree", call{unix.SYS_OPEN_TREE, [6]uintptr{none, 0, badBit}}},
	{"mount_setattr", call{unix.SYS_MOUNT_SETATTR, [6]uintptr{none, 0, badBit}}},
	{"chroot", call{unix.SYS_CHROOT, [6]uintptr{}}},
	{"io_uring_setup", call{unix.SYS_IO_URING_SETUP, [6]uintptr{}}},
	{"userfaultfd", call{unix.SYS_USERFAULTFD, [6]uintptr{1 | badBit}}}, // UFFD_USER_MODE_ONLY
	{"perf_event_open", call{unix.SYS_PERF_EVENT_OPEN, [6]uintptr{0, 0, 0, none, badBit}}},
	{"keyctl", call{unix.SYS_KEYCTL, [6]uintptr{none}}},
	{"add_key", call{unix.SYS_ADD_KEY, [6]uintptr{}}},
	{"request_key", call{unix.SYS_REQUEST_KEY, [6]uintptr{}}},
	{"personality", call{unix.SYS_PERSONALITY, [6]uintptr{0xffffffff}}}, // asks for the current one
	{"memfd_create", call{unix.SYS_MEMFD_CREATE, [6]uintptr{0, badBit}}},
	{"execveat", call{unix.SYS_EXECVEAT, [6]uintptr{none, 0, 0, 0, badBit}}},
	{"openat2", call{unix.SYS_OPENAT2, [6]uintptr{none}}},
	{"close_range", call{unix.SYS_CLOSE_RANGE, [6]uintptr{1, 0}}},
	{"process_madvise", call{unix.SYS_PROCESS_MADVISE, [6]uintptr{none, 0, 0, 0, badBit}}},
}

// blocked has a child make every trial and lists those that were refused. A
// child that is killed for a call is replaced by another for the rest.
func blocked() ([]string, error) {
	refused := []string{}
	for from := 0; from < len(trials); {
		done, err := blockedFrom(from, &refused)
		if err != nil {
			return nil, err
		}
		from = done
	}
	return refused, nil
}

// blockedFrom tries the calls from one on and returns the first that is left.
func blockedFrom(from int, refused *[]string) (next int, err error) {
	p := &program{}
	for _, t := range trials[from:] {
		p.calls = append(p.calls, t.call)
	}
	k, err := start(p, 0)
	if err != nil {
		return 0, err
	}
	for i := from; i < len(trials); i++ {
		result, err := k.result()
		if err != nil {
			status := k.end(true)
			if !status.Signaled() {
				return 0, err
			}
			*refused = append(*refused, fmt.Sprintf("%s %v", trials[i].name, status.Signal()))
			return i + 1, nil
		}
		switch e := syscall.Errno(-result); e {
		case unix.EPERM, unix.ENOSYS, unix.EACCES:
			*refused = append(*refused, trials[i].name+" "+unix.ErrnoName(e))
		}
	}
	k.end(false)
	return len(trials), nil
}
