package attack

import (
	"encoding/binary"
	"runtime"

	"golang.org/x/sys/unix"
)

// cloneFlip clones a process that shares this one's memory and writes a and b
// to at, in turn, until stop is not zero. It runs on stack and never returns to
// Go. The result is its process id or a negative errno.
//
//go:noescape
func cloneFlip(flags, stack, at, a, b, stop uintptr) int64

// cloneCalls clones a process that makes n calls of a table in order and exits.
// A row is eight words: the number, six arguments and room for the result.
//
//go:noescape
func cloneCalls(flags, stack, rows, n uintptr) int64

const rowWords = 8

// inClone runs calls in a process cloned with flags and gives their results,
// which are negative errno values for failures. Memory must be shared.
func (a *agent) inClone(flags uintptr, calls ...[]uintptr) ([]int64, error) {
	rows, at := a.heap.alloc(len(calls) * rowWords * 8)
	for i, c := range calls {
		for j, v := range c {
			binary.NativeEndian.PutUint64(rows[(i*rowWords+j)*8:], uint64(v))
		}
		binary.NativeEndian.PutUint64(rows[(i*rowWords+7)*8:], uint64(1)<<63)
	}
	_, stack := a.heap.alloc(4096)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid := cloneCalls(flags|unix.CLONE_VM|uintptr(unix.SIGCHLD), stack+4096, at, uintptr(len(calls)))
	if pid < 0 {
		return nil, unix.Errno(-pid)
	}
	var st unix.WaitStatus
	for {
		_, err := unix.Wait4(int(pid), &st, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, faultf("waiting for the clone: %w", err)
		}
		break
	}
	if st.Signaled() {
		return nil, &refusal{wordKilled + unix.SignalName(st.Signal()), ""}
	}
	out := make([]int64, len(calls))
	for i := range calls {
		out[i] = int64(binary.NativeEndian.Uint64(rows[(i*rowWords+7)*8:]))
	}
	return out, nil
}

// result turns a raw result into an error.
func result(r int64) error {
	if r < 0 && r > -4096 {
		return unix.Errno(-r)
	}
	return nil
}

// cloneConnect lets a clone with shared memory, and once more with shared
// descriptors, connect a socket that its parent made.
func cloneConnect(a *agent) {
	for name, flags := range map[string]uintptr{
		"memory": 0, "memory_and_files": unix.CLONE_FILES, "thread_like": unix.CLONE_FILES | unix.CLONE_FS | unix.CLONE_SIGHAND,
		"flags_high_bits": unix.CLONE_FILES | high,
	} {
		a.try(name, func() error {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			sa := sockaddr(parse(a.TCP4))
			r, err := a.inClone(flags, []uintptr{unix.SYS_CONNECT, uintptr(fd), a.heap.put(sa), uintptr(len(sa))})
			if err != nil {
				return err
			}
			if err := result(r[0]); err != nil {
				return err
			}
			return a.prove(fd, name)
		})
	}
}

func connectRaceClone(a *agent) {
	sa, at := a.heap.alloc(unix.SizeofSockaddrInet4)
	stop, stopAt := a.heap.alloc(8)
	_, stack := a.heap.alloc(4096)
	good, bad := parse(a.Proxy), parse(a.TCP4)
	copy(sa, sockaddr(good))
	pid := cloneFlip(unix.CLONE_VM|uintptr(unix.SIGCHLD), stack+4096, at, uintptr(first8(good)), uintptr(first8(bad)), stopAt)
	if pid < 0 {
		a.try("clone", func() error { return faultf("clone: %w", unix.Errno(-pid)) })
		return
	}
	a.race("clone", func() error { return a.racedConnect(at, bad) })
	stop[0] = 1
	unix.Wait4(int(pid), nil, unix.WALL, nil)
}

// notMade is what a row holds whose call was not made, or did not return.
const notMade = int64(-1 << 63)
