package seccomp

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
)

// Arch is a processor architecture with its system call numbers.
type Arch uint8

// The architectures that filters can be compiled for. The zero value is none of
// them.
const (
	AMD64 Arch = 1 + iota
	ARM64
)

// x32Bit marks a call of the x32 ABI on amd64: __X32_SYSCALL_BIT of asm/unistd.h.
const x32Bit = 0x40000000

// String is the name that Go uses for the architecture.
func (a Arch) String() string {
	switch a {
	case AMD64:
		return "amd64"
	case ARM64:
		return "arm64"
	}
	return "unknown architecture"
}

// Audit is the AUDIT_ARCH_ value by which the kernel names the architecture.
func (a Arch) Audit() uint32 {
	switch a {
	case AMD64:
		return unix.AUDIT_ARCH_X86_64
	case ARM64:
		return unix.AUDIT_ARCH_AARCH64
	}
	return 0
}

// Number returns the number of a call, or -1 if the architecture does not have
// it. known is false if no architecture has it.
func (a Arch) Number(name string) (nr int, known bool) {
	i, known := slices.BinarySearchFunc(calls[:], name, func(c call, name string) int { return cmp.Compare(c.name, name) })
	if !known {
		return -1, false
	}
	return calls[i].number(a), true
}

// Calls returns the name of every call of the architecture by its number.
func (a Arch) Calls() map[int]string {
	m := make(map[int]string, len(calls))
	for _, c := range calls {
		if nr := c.number(a); nr >= 0 {
			m[nr] = c.name
		}
	}
	return m
}

// Newest is the highest call number that this package knows the meaning of.
func (a Arch) Newest() int { return newest }

func (c call) number(a Arch) int {
	switch a {
	case AMD64:
		return int(c.amd64)
	case ARM64:
		return int(c.arm64)
	}
	return -1
}
