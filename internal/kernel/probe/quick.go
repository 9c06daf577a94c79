package probe

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/caps"
	"sallyport/internal/kernel/landlock"
	"sallyport/internal/kernel/notify"
	"sallyport/internal/kernel/procfs"
)

// Quick finds the facts that a start needs, in a fraction of a millisecond. On
// the kernels between 5.19 and 6.17 it makes a child that lives about as long.
func Quick() (Facts, error) {
	f := Facts{Arch: runtime.GOARCH, UID: os.Geteuid(), GID: os.Getegid(), Yama: yama(), PIDLimit: -1}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return f, fmt.Errorf("probe: kernel release: %w", err)
	}
	f.Kernel = unix.ByteSliceToString(u.Release[:])
	s, err := procfs.Status(os.Getpid())
	if err != nil {
		return f, fmt.Errorf("probe: %w", err)
	}
	f.Caps = caps.Sets{Inheritable: s.CapInh, Permitted: s.CapPrm, Effective: s.CapEff, Bounding: s.CapBnd, Ambient: s.CapAmb}
	f.NoNewPrivs, f.SeccompMode, f.SeccompFilters = s.NoNewPrivs, s.Seccomp, s.SeccompFilters
	if f.LandlockABI, err = landlock.ABI(); err != nil {
		f.LandlockWhy = err.Error()
	}
	f.LandlockErrata = landlock.Errata()
	f.SeccompNotify = quickNotify(f.Kernel, f.SeccompMode)
	f.ProcMem, f.ProcFD = true, true // of one's own child, who may be traced
	if f.Yama >= yamaAdminOnly && f.SeccompNotify.NewListener {
		o := observe()
		f.ProcMem, f.ProcFD = o.procMem, o.procFD
	}
	return f, nil
}

// yamaAdminOnly is the ptrace_scope from which on a parent may not trace its
// child without CAP_SYS_PTRACE (Documentation/admin-guide/LSM/Yama.rst).
const yamaAdminOnly = 2

// quickNotify looks at seccomp user notification.
func quickNotify(release string, mode int) SeccompNotify {
	var n SeccompNotify
	if err := notify.CheckSizes(); err != nil {
		n.Why = err.Error()
		return n
	}
	if mode != 0 {
		// Where no filter is, none can forbid another listener.
		switch e := tryListener(); e {
		case 0:
		case unix.EBUSY:
			n.NestedListener = true
			n.Why = "this process is already behind a seccomp filter with a listener (nested in another sandbox)"
			return n
		default:
			n.Why = fmt.Sprintf("seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER): %v", e)
			return n
		}
	}
	n.NewListener = true
	switch {
	case !atLeast(release, 5, 19):
	case atLeast(release, 6, 17):
		n.WaitKillable = true
	default:
		n.WaitKillable = observe().WaitKillable
	}
	return n
}

// atLeast compares a release such as "6.1.0-13-amd64" with major.minor.
func atLeast(release string, major, minor int) bool {
	var v [2]int
	i := 0
	for _, c := range release {
		if c >= '0' && c <= '9' {
			v[i] = min(v[i]*10+int(c-'0'), 1<<20)
			continue
		}
		if i++; c != '.' || i == len(v) {
			break
		}
	}
	return v[0] > major || v[0] == major && v[1] >= minor
}

// yama reads ptrace_scope: 0 classic, 1 descendants only, 2 CAP_SYS_PTRACE
// only, 3 nobody.
func yama() int {
	b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil || len(b) == 0 || b[0] < '0' || b[0] > '3' {
		return -1
	}
	return int(b[0] - '0')
}
