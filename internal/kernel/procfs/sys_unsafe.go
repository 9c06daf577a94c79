package procfs

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below exist because the wrappers of x/sys/unix take strings, which
// costs an allocation for each name.

// openName opens p with flags and O_CLOEXEC. The caller owns the descriptor.
func openName(p *name, flags int) (int, error) {
	for {
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT, atFDCWD, uintptr(unsafe.Pointer(&p.b[0])),
			uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
		if e == 0 {
			return int(fd), nil
		}
		if e != unix.EINTR {
			return -1, e
		}
	}
}

// readlinkName reads the target of p into buf and returns its length. A length
// of len(buf) means that the target may have been cut. A relative p starts at
// the directory dir.
func readlinkName(dir uintptr, p *name, buf []byte) (int, error) {
	if len(buf) == 0 {
		return 0, unix.EINVAL
	}
	n, _, e := unix.Syscall6(unix.SYS_READLINKAT, dir, uintptr(unsafe.Pointer(&p.b[0])),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// statName fills st for the file behind p, relative to dir; links are followed.
func statName(dir uintptr, p *name, st *unix.Stat_t) error {
	_, _, e := unix.Syscall6(sysFstatat, dir, uintptr(unsafe.Pointer(&p.b[0])),
		uintptr(unsafe.Pointer(st)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// readFD reads once into buf.
func readFD(fd int, buf []byte) (int, error) {
	if len(buf) == 0 {
		return 0, unix.EINVAL
	}
	for {
		n, _, e := unix.Syscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if e == 0 {
			return int(n), nil
		}
		if e != unix.EINTR {
			return 0, e
		}
	}
}

// readMemory copies from addr in the memory of tid to buf by process_vm_readv, and
// returns the count of bytes.
func readMemory(tid int, addr uint64, buf []byte) (int, unix.Errno) {
	local := unix.Iovec{Base: &buf[0]}
	local.SetLen(len(buf))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(buf)}
	n, _, e := unix.Syscall6(unix.SYS_PROCESS_VM_READV, uintptr(tid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&remote)), 1, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// atFDCWD is AT_FDCWD as the kernel takes it in a register.
const atFDCWD = ^uintptr(99) // -100
