package stage

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// inherited owns the descriptors that the children are to find, all at numbers
// of at least firstSource and all close-on-exec.
type inherited struct {
	src     sources
	control int // the supervisor's end
	errRead int
	owned   []int // closed in the parent after fork
}

func openInherited(s Spec) (*inherited, error) {
	in := &inherited{control: -1, errRead: -1}
	in.src.ruleset, in.src.guardRuleset = -1, -1
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return in, fmt.Errorf("stage: control socket: %w", err)
	}
	in.control = pair[0]
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		unix.Close(pair[1])
		return in, fmt.Errorf("stage: error pipe: %w", err)
	}
	in.errRead = pipe[0]
	in.src.control, err = in.raise(pair[1], err)
	unix.Close(pair[1])
	in.src.errPipe, err = in.raise(pipe[1], err)
	unix.Close(pipe[1])
	for i, f := range s.Stdio {
		in.src.stdio[i], err = in.raise(int(f.Fd()), err)
	}
	if s.Ruleset >= 0 {
		in.src.ruleset, err = in.raise(s.Ruleset, err)
	}
	if s.GuardRuleset >= 0 {
		in.src.guardRuleset, err = in.raise(s.GuardRuleset, err)
	}
	return in, err
}

// raise duplicates fd to a high number; it passes an earlier error on.
func (in *inherited) raise(fd int, err error) (int, error) {
	if err != nil {
		return -1, err
	}
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstSource)
	if err != nil {
		return -1, fmt.Errorf("stage: duplicating descriptor %d: %w", fd, err)
	}
	in.owned = append(in.owned, n)
	return n, nil
}

// take hands the supervisor's end of the control socket to the caller.
func (in *inherited) take() int {
	c := in.control
	in.control = -1
	return c
}

func (in *inherited) closeChildEnds() {
	for _, fd := range in.owned {
		unix.Close(fd)
	}
	in.owned = nil
}

func (in *inherited) close() {
	in.closeChildEnds()
	for _, fd := range []int{in.control, in.errRead} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func readFull(fd int, b []byte) (int, error) {
	got := 0
	for got < len(b) {
		n, err := unix.Read(fd, b[got:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return got, err
		}
		got += n
	}
	return got, nil
}
