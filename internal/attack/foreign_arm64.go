package attack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Numbers of 32-bit ARM, arch/arm/tools/syscall.tbl.
const (
	arm32Exit   = 1
	arm32Getpid = 20
	arm32Socket = 281
)

// foreignI386 makes calls by the 32-bit table. An arm64 process cannot, but it can
// become a program that does: the numbers and the architecture that the filter sees
// are then those of ARM.
func foreignI386(a *agent) {
	a.try("getpid", func() error { return a.arm32(arm32Getpid) })
	a.try("socket", func() error { return a.arm32(arm32Socket, unix.AF_INET, unix.SOCK_DGRAM, 0) })
}

func foreignX32(a *agent) {
	a.try("getpid", func() error { return &absent{"this processor has no other numbers in the same table"} })
}

// arm32 makes one call in a program of its own, whose status tells the errno.
func (a *agent) arm32(nr uint16, args ...byte) error {
	path := a.work("arm32")
	if err := os.WriteFile(path, arm32Program(nr, args...), 0o700); err != nil {
		return &fault{err}
	}
	err := exec.Command(path).Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, unix.ENOEXEC):
		return &absent{"this kernel or this processor has no 32-bit emulation"}
	case !errors.As(err, &exit):
		return err
	}
	if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
		return &refusal{wordKilled + unix.SignalName(ws.Signal()), ""}
	}
	return unix.Errno(exit.ExitCode())
}

// arm32Program is an ELF file, elf(5), that makes one call and exits with its errno,
// or with 0. The instructions are of A32, ARM DDI 0406C chapter A8.
func arm32Program(nr uint16, args ...byte) []byte {
	const base, headers = 0x10000, 52 + 32
	var code []uint32
	for i, arg := range args {
		code = append(code, 0xe3a00000|uint32(i)<<12|uint32(arg)) // mov ri, #arg
	}
	code = append(code,
		0xe3000000|uint32(nr>>12)<<16|7<<12|uint32(nr&0xfff), // movw r7, #nr
		0xef000000,           // svc #0
		0xe3500000,           // cmp r0, #0
		0xb2600000,           // rsblt r0, r0, #0
		0xa3a00000,           // movge r0, #0
		0xe3a07000|arm32Exit, // mov r7, #exit
		0xef000000)           // svc #0
	size := uint32(headers + 4*len(code))
	var b bytes.Buffer
	b.WriteString("\x7fELF\x01\x01\x01") // 32 bits, little-endian
	b.Write(make([]byte, 9))             // System V
	for _, v := range []any{
		uint16(2), uint16(40), uint32(1), uint32(base + headers), // an executable for ARM, where it begins
		uint32(52), uint32(0), uint32(0x05000000), uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0), // one segment; EABI 5
		uint32(1), uint32(0), uint32(base), uint32(base), size, size, uint32(5), uint32(0x10000), // all of the file, to be read and executed
		code,
	} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	return b.Bytes()
}
