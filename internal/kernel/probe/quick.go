package probe

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/landlock"
	"sallyport/internal/kernel/notify"
)

// Quick finds the facts that a start needs, in well under a millisecond. It
// makes no child; what only a child can show is left to Host.
func Quick() (Facts, error) {
	f := Facts{Arch: runtime.GOARCH, UID: os.Getuid(), GID: os.Getgid()}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return f, err
	}
	f.Kernel = unix.ByteSliceToString(u.Release[:])
	abi, err := landlock.ABI()
	if err != nil {
		f.LandlockWhy = err.Error()
	}
	f.LandlockABI, f.LandlockErrata = abi, landlock.Errata()
	if err := notify.CheckSizes(); err != nil {
		f.SeccompNotify.Why = err.Error()
		return f, nil
	}
	f.SeccompNotify.NewListener = true
	f.SeccompNotify.WaitKillable = atLeast(f.Kernel, 5, 19)
	return f, nil
}

// atLeast compares a release such as "6.1.0-13-amd64" with major.minor.
func atLeast(release string, major, minor int) bool {
	var v [2]int
	i := 0
	for _, c := range release {
		if c >= '0' && c <= '9' {
			v[i] = v[i]*10 + int(c-'0')
			continue
		}
		if i++; c != '.' || i == len(v) {
			break
		}
	}
	return v[0] > major || v[0] == major && v[1] >= minor
}
