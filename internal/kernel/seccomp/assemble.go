package seccomp

import (
	"golang.org/x/net/bpf"
)

// Opcodes of classic BPF, linux/bpf_common.h. These few are what the kernel can
// follow when it looks for calls that are always allowed: for them it does
// not run the filter at all (kernel commit 8e01b51a31a1, Linux 5.11).
const (
	opLoad  = 0x20 // BPF_LD  | BPF_W   | BPF_ABS
	opAnd   = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opGoto  = 0x05 // BPF_JMP | BPF_JA
	opEqual = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	opAbove = 0x25 // BPF_JMP | BPF_JGT | BPF_K
	opFrom  = 0x35 // BPF_JMP | BPF_JGE | BPF_K
	opRet   = 0x06 // BPF_RET | BPF_K
)

// node is a place in the program, counted from its end. The end of a program
// does not move while it is written backwards, so that every target is known when
// a jump to it is written, and a place that exists can be used again.
type node int

// key is an instruction with its targets, before distances are known.
type key struct {
	op      uint16
	k       uint32
	yes, no node
}

// assembler writes a program from its end to its beginning.
type assembler struct {
	reversed []bpf.RawInstruction
	known    map[key]node
}

func (a *assembler) emit(i bpf.RawInstruction) node {
	a.reversed = append(a.reversed, i)
	return node(len(a.reversed) - 1)
}

// once writes what is not there yet.
func (a *assembler) once(k key, write func() node) node {
	if n, is := a.known[k]; is {
		return n
	}
	n := write()
	a.known[k] = n
	return n
}

// ret ends the program with an action.
func (a *assembler) ret(do Action) node {
	return a.once(key{op: opRet, k: uint32(do)}, func() node {
		return a.emit(bpf.RawInstruction{Op: opRet, K: uint32(do)})
	})
}

// load reads a word of struct seccomp_data and goes on at next.
func (a *assembler) load(offset uint32, next node) node {
	return a.then(opLoad, offset, next)
}

// and masks what was read and goes on at next.
func (a *assembler) and(mask uint32, next node) node {
	return a.then(opAnd, mask, next)
}

func (a *assembler) then(op uint16, k uint32, next node) node {
	return a.once(key{op: op, k: k, yes: next}, func() node {
		if int(next) != len(a.reversed)-1 {
			a.jump(next)
		}
		return a.emit(bpf.RawInstruction{Op: op, K: k})
	})
}

// jump goes to a place of any distance.
func (a *assembler) jump(to node) node {
	return a.emit(bpf.RawInstruction{Op: opGoto, K: uint32(len(a.reversed) - 1 - int(to))})
}

// branch compares what was read with k.
func (a *assembler) branch(op uint16, k uint32, yes, no node) node {
	if yes == no {
		return yes
	}
	return a.once(key{op, k, yes, no}, func() node {
		// A distance has 8 bits. One that is longer goes by way of a jump, which
		// may push the other one out of reach in turn.
		const reach = 255
		far := func(n node) bool { return len(a.reversed)-1-int(n) > reach }
		if far(yes) {
			yes = a.jump(yes)
		}
		if far(no) {
			no = a.jump(no)
		}
		if far(yes) {
			yes = a.jump(yes)
		}
		return a.emit(bpf.RawInstruction{
			Op: op, K: k,
			Jt: uint8(len(a.reversed) - 1 - int(yes)),
			Jf: uint8(len(a.reversed) - 1 - int(no)),
		})
	})
}

// program returns what was written, from its beginning, which must be start.
func (a *assembler) program(start node) []bpf.RawInstruction {
	if int(start) != len(a.reversed)-1 {
		a.jump(start)
	}
	p := make([]bpf.RawInstruction, len(a.reversed))
	for i, in := range a.reversed {
		p[len(p)-1-i] = in
	}
	return p
}
