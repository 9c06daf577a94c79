package seccomp

import (
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

type instruction = bpf.RawInstruction

// source makes rules and calls out of bytes, and goes on with numbers that follow
// from them when they are used up.
type source struct {
	b    []byte
	seed uint32
}

func (s *source) byte() byte {
	if len(s.b) == 0 {
		s.seed = s.seed*1664525 + 1013904223
		return byte(s.seed >> 24)
	}
	c := s.b[0]
	s.b = s.b[1:]
	s.seed = s.seed*31 + uint32(c)
	return c
}

func (s *source) pick(n int) int { return int(s.byte()) % n }

// word favours values that share a half with others.
func (s *source) word() uint64 {
	few := [...]uint64{0, 1, 2, 0xf, 1<<32 - 1}
	return few[s.pick(len(few))]<<32 | few[s.pick(len(few))]
}

func (s *source) cond() Cond {
	masks := [...]uint64{1<<32 - 1, 1<<64 - 1, 0xf, 0xf << 32, 0xf0000000f, 1 << 63}
	c := Cond{Arg: s.pick(6), Mask: masks[s.pick(len(masks))], Op: Op(1 + s.pick(3))}
	n := 1
	if c.Op != Above {
		n += s.pick(3)
	}
	for range n {
		c.Values = append(c.Values, s.word()&c.Mask)
	}
	return c
}

// named is the calls that random rules are about.
var named = [...]string{"read", "write", "open", "socket", "connect", "sendto", "clone3", "iopl", "rseq_slice_yield"}

func (s *source) call(nr uint32, arch Arch) data {
	d := data{nr: nr, arch: arch.Audit()}
	for i := range d.args {
		d.args[i] = s.word()
	}
	return d
}

func (s *source) rules() []Rule {
	does := [...]Action{Allow, Notify, Errno(unix.EPERM), Errno(unix.EINVAL), KillProcess}
	var rules []Rule
	for range s.pick(12) {
		r := Rule{Do: does[s.pick(len(does))]}
		for range 1 + s.pick(3) {
			r.Calls = append(r.Calls, named[s.pick(len(named))])
		}
		for range s.pick(4) {
			r.When = append(r.When, s.cond())
		}
		rules = append(rules, r)
	}
	if s.pick(2) == 1 {
		rules = append(rules, Rule{From: newest + 1, Do: does[s.pick(len(does))]})
	}
	return rules
}

// FuzzCompile compares the program of a random table with the meaning of the
// table, for random calls.
func FuzzCompile(f *testing.F) {
	f.Add([]byte("a table"))
	f.Add([]byte{11, 2, 1, 3, 4, 2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 3, 3, 3, 1, 1, 1, 2, 2, 2, 4, 4, 4, 5, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &source{b: b}
		arch := []Arch{AMD64, ARM64}[s.pick(2)]
		def := []Action{Allow, Errno(unix.EPERM)}[s.pick(2)]
		rules := s.rules()
		p, err := Compile(arch, rules, def)
		if err != nil {
			t.Skip(err) // a row that nothing reaches
		}
		m := newMachine(t, p)
		for nr := range uint32(newest + 3) {
			same(t, m, arch, rules, def, s.call(nr, arch))
		}
		for _, d := range []data{
			{nr: x32Bit | uint32(s.byte()), arch: arch.Audit()},
			{nr: uint32(s.byte()), arch: uint32(s.word())},
			{nr: 1<<32 - 1, arch: arch.Audit()},
		} {
			same(t, m, arch, rules, def, d)
		}
		for range 50 { // the calls of the rules, with other arguments
			for _, name := range named {
				if nr, _ := arch.Number(name); nr >= 0 {
					same(t, m, arch, rules, def, s.call(uint32(nr), arch))
				}
			}
		}
	})
}

func same(t *testing.T, m machine, arch Arch, rules []Rule, def Action, d data) {
	t.Helper()
	if got, want := m.run(d), interpret(arch, rules, def, d); got != want {
		t.Fatalf("%+v: %v, want %v; rules %+v", d, got, want, rules)
	}
}
