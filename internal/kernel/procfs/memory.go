package procfs

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrFault says that an address of the other process is not mapped, or not for
// this kind of access. The call that is answered on its behalf fails with EFAULT.
var ErrFault = errors.New("procfs: address not mapped in the process")

// Memory copies from the memory of other processes. The zero value is ready and may
// be shared.
//
// The quick way is process_vm_readv(2). The seccomp profile of some container
// runtimes refuses it (containerd before 1.7, Docker 20.10), while
// /proc/TID/mem of a child is open everywhere; a Memory that has seen the one
// refused and the other work does not try the first again.
//
// A page may belong to a file that takes for ever to read, so a call may block
// for as long as that file's system likes.
type Memory struct{ refused atomic.Bool }

// Read fills buf from addr in the memory of the thread tid. n is less than
// len(buf) only together with an error: [ErrFault], or what [Gone] recognises.
func (m *Memory) Read(tid int, addr uint64, buf []byte) (n int, err error) {
	if len(buf) == 0 {
		return 0, nil
	}
	if last := addr + uint64(len(buf)) - 1; last < addr || last > 1<<63-1 || addr == 0 {
		return 0, fmt.Errorf("%w: %#x", ErrFault, addr)
	}
	if m.refused.Load() {
		return memFile(tid, addr, buf)
	}
	n, e := readMemory(tid, addr, buf)
	switch {
	case e == 0 && n == len(buf):
		return n, nil
	case e == 0 || e == unix.EFAULT:
		return n, fmt.Errorf("%w: %#x", ErrFault, addr+uint64(n))
	case e != unix.EPERM && e != unix.ENOSYS:
		return 0, fmt.Errorf("procfs: memory of %d: %w", tid, e)
	}
	// EPERM is also the answer for a process that may not be looked into at
	// all: only where the file opens was it the call that is refused.
	n, err = memFile(tid, addr, buf)
	if err == nil {
		m.refused.Store(true)
	}
	return n, err
}

// OpenMem opens the memory of the thread tid for writing. The descriptor stays
// with that memory whatever becomes of the number; to be sure whose it is, ask
// about the thread after it was opened. A write succeeds on a page that the process
// has mapped read-only, too; it changes the private copy of that process and nobody
// else's. The caller owns the descriptor.
func OpenMem(tid int) (fd int, err error) {
	var p name
	p.of(tid, "/mem")
	if fd, err = openName(&p, unix.O_WRONLY); err != nil {
		return -1, fault(&p, err)
	}
	return fd, nil
}

// memFile copies through /proc/TID/mem, opened for this one copy so that it is
// the memory of the program that the thread runs now.
func memFile(tid int, addr uint64, buf []byte) (int, error) {
	var p name
	p.of(tid, "/mem")
	fd, err := openName(&p, unix.O_RDONLY)
	if err != nil {
		return 0, fault(&p, err)
	}
	defer unix.Close(fd)
	for n := 0; n < len(buf); {
		k, err := unix.Pread(fd, buf[n:], int64(addr)+int64(n))
		switch {
		case err == unix.EINTR:
		case err == unix.EIO || err == unix.EFAULT:
			return n, fmt.Errorf("%w: %#x", ErrFault, addr+uint64(n))
		case err != nil:
			return n, fault(&p, err)
		case k <= 0: // mem_rw: the last thread has let go of the memory
			return n, fault(&p, unix.ESRCH)
		default:
			n += k
		}
	}
	return len(buf), nil
}
