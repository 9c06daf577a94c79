package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// patience is how long a child may take for one step, in milliseconds. It takes
// microseconds; only a kernel that lost it lets the time run out.
const patience = 1000

var (
	errLate = errors.New("probe: child does not answer")
	errDead = errors.New("probe: child ended early")
)

// kid is a running child.
type kid struct {
	pid   int
	pidfd int // owned; -1 where the call is refused
	read  int // owned; the pipe on which the child tells its results
	write int // owned; -1 where the child has an end of its own
}

// start runs p in a child. The caller calls end. With extra CLONE_FILES the
// child has no descriptors of its own, but this process's.
func start(p *program, extra uintptr) (*kid, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	p.out = uintptr(pipe[1])
	pid, e := fork(p, extra)
	k := &kid{pid: pid, pidfd: -1, read: pipe[0], write: pipe[1]}
	if e != 0 {
		k.close()
		return nil, fmt.Errorf("probe: child: %w", e)
	}
	if extra&unix.CLONE_FILES == 0 {
		unix.Close(k.write) // so that the child's end is the last one
		k.write = -1
	}
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		k.pidfd = fd
	}
	return k, nil
}

func (k *kid) close() {
	for _, fd := range []int{k.pidfd, k.read, k.write} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// result is what the child's next call returned, negative for an errno.
func (k *kid) result() (int64, error) {
	if _, err := k.await(-1); err != nil {
		return 0, err
	}
	var b [8]byte
	n, err := unix.Read(k.read, b[:])
	if n != len(b) {
		return 0, errors.Join(errDead, err)
	}
	return int64(binary.NativeEndian.Uint64(b[:])), nil
}

// await waits until the child has told a result or fd, if there is one, can be
// read; told says that it was the first.
func (k *kid) await(fd int) (told bool, err error) {
	poll := []unix.PollFd{
		{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(k.pidfd), Events: unix.POLLIN}, {Fd: int32(k.read), Events: unix.POLLIN},
	}
	if err := wait(poll, patience); err != nil {
		return false, err
	}
	// The kernel looks at one after the other: what the child told before it
	// made its next call or ended may have been missed.
	if err := wait(poll[2:], 0); err == nil {
		return true, nil
	} else if !errors.Is(err, errLate) {
		return false, err
	}
	if poll[0].Revents&unix.POLLIN != 0 {
		return false, nil
	}
	return false, errDead
}

// wait is poll(2) that goes on after a signal; errLate if nothing happened.
func wait(poll []unix.PollFd, milliseconds int) error {
	for {
		n, err := unix.Poll(poll, milliseconds)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("probe: %w", err)
		case n == 0:
			return errLate
		default:
			return nil
		}
	}
}

// end waits for the child, which it kills before if it may still run.
func (k *kid) end(kill bool) syscall.WaitStatus {
	if kill {
		unix.Kill(k.pid, unix.SIGKILL)
	}
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(k.pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	k.close()
	return status
}
