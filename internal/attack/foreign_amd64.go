package attack

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// int80 makes a 32-bit system call: the numbers and the architecture that the
// filter sees are those of i386.
//
//go:noescape
func int80(nr, a1, a2, a3, a4, a5 uintptr) int64

// Numbers of i386, arch/x86/entry/syscalls/syscall_32.tbl.
const (
	i386Getpid     = 20
	i386Socketcall = 102
	i386Socket     = 359
	i386Connect    = 362
	x32Bit         = 0x40000000
)

// callSocket is the number by which socketcall knows socket.
const callSocket = 1

func foreignI386(a *agent) {
	a.heap.low = true
	a.try("getpid", func() error { return emulated(int80(i386Getpid, 0, 0, 0, 0, 0)) })
	a.try("socket", func() error {
		r := int80(i386Socket, unix.AF_INET, unix.SOCK_DGRAM, 0, 0, 0)
		if r < 0 {
			return emulated(r)
		}
		sa := sockaddr(parse(a.TCP4))
		fd := int80(i386Socket, unix.AF_INET, unix.SOCK_STREAM, 0, 0, 0)
		if r := int80(i386Connect, uintptr(fd), a.heap.put(sa), uintptr(len(sa)), 0, 0); r < 0 {
			return emulated(r)
		}
		return a.prove(int(fd), "socket")
	})
	a.try("socketcall", func() error {
		args, at := a.heap.alloc(16)
		binary.NativeEndian.PutUint32(args, unix.AF_INET)
		binary.NativeEndian.PutUint32(args[4:], unix.SOCK_DGRAM)
		return emulated(int80(i386Socketcall, callSocket, at, 0, 0, 0))
	})
}

// emulated is the result of a 32-bit call; a kernel without emulation has no
// handler and the process dies, which the driver reports.
func emulated(r int64) error {
	if err := result(r); err != nil {
		if err == unix.ENOSYS {
			return &absent{"this kernel has no 32-bit emulation"}
		}
		return err
	}
	return nil
}

func foreignX32(a *agent) {
	a.probe("getpid", func() error { _, err := call(x32Bit | unix.SYS_GETPID); return err })
	a.probe("socket", func() error {
		_, err := call(x32Bit|unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, 0)
		return err
	})
	a.probe("ptrace", func() error { _, err := call(x32Bit | 521); return err })
	a.probe("connect_high_bits", func() error {
		_, err := call(high|unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW, 0)
		return err
	})
}
