package seccomp

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
)

// data is struct seccomp_data.
type data struct {
	nr   uint32
	arch uint32
	ip   uint64
	args [6]uint64
}

// packet writes d as bpf.VM is to read it. The kernel's filter loads words of
// struct seccomp_data in host byte order, where a uint64 of a little-endian machine
// has its low word first. The VM loads the words of a packet as big-endian. So each
// 32-bit word stands where the kernel has it, with its bytes turned around.
func (d data) packet() []byte {
	b := make([]byte, 0, 64)
	b = binary.BigEndian.AppendUint32(b, d.nr)
	b = binary.BigEndian.AppendUint32(b, d.arch)
	for _, w := range append([]uint64{d.ip}, d.args[:]...) {
		b = binary.BigEndian.AppendUint32(b, uint32(w))
		b = binary.BigEndian.AppendUint32(b, uint32(w>>32))
	}
	return b
}

// machine runs a program.
type machine struct {
	t  testing.TB
	vm *bpf.VM
}

func newMachine(t testing.TB, p []bpf.RawInstruction) machine {
	t.Helper()
	vm, err := bpf.NewVM(disassemble(t, p))
	if err != nil {
		t.Fatal(err)
	}
	return machine{t, vm}
}

func disassemble(t testing.TB, p []bpf.RawInstruction) []bpf.Instruction {
	t.Helper()
	all, decoded := bpf.Disassemble(p)
	if !decoded {
		t.Fatal("the program has instructions that x/net/bpf does not know")
	}
	return all
}

func (m machine) run(d data) Action {
	m.t.Helper()
	r, err := m.vm.Run(d.packet())
	if err != nil {
		m.t.Fatal(err)
	}
	return Action(uint32(r))
}

// interpret says what a table means, rule by rule, without a program.
func interpret(arch Arch, rules []Rule, def Action, d data) Action {
	if d.arch != arch.Audit() {
		return KillProcess
	}
	if arch == AMD64 && d.nr >= x32Bit {
		return enosys
	}
	for _, r := range rules {
		if r.From > 0 && d.nr >= uint32(r.From) {
			return r.Do
		}
		for _, name := range r.Calls {
			if nr, _ := arch.Number(name); nr >= 0 && uint32(nr) == d.nr && all(r.When, d.args) {
				return r.Do
			}
		}
	}
	return def
}

func all(when []Cond, args [6]uint64) bool {
	for _, c := range when {
		if !c.holds(args) {
			return false
		}
	}
	return true
}
