package seccomp

import (
	"fmt"
	"math"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxInstructions is BPF_MAXINSNS of linux/bpf_common.h.
const maxInstructions = 4096

// Offsets in struct seccomp_data of linux/seccomp.h. Both architectures are
// little-endian: the low word of an argument comes first.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// Compile makes a filter program of a table: a foreign architecture kills the
// process, an x32 number is ENOSYS, then the first rule decides that names the
// call and whose conditions hold, else def. The error names the rule that cannot be
// compiled: one with an unknown call, without a sense, or that nothing can reach.
func Compile(arch Arch, rules []Rule, def Action) ([]bpf.RawInstruction, error) {
	if arch.Audit() == 0 {
		return nil, fmt.Errorf("seccomp: %v", arch)
	}
	if !def.valid() {
		return nil, fmt.Errorf("seccomp: default: %v is not an action", def)
	}
	t, err := sortRules(arch, rules)
	if err != nil {
		return nil, err
	}
	a := &assembler{reversed: make([]bpf.RawInstruction, 0, 512), known: make(map[key]node, 512)}
	tree := a.search(a.ranges(arch, t, def))
	p := a.program(a.load(offArch,
		a.branch(opEqual, arch.Audit(),
			a.load(offNr, tree),
			a.ret(KillProcess))))
	if len(p) > maxInstructions {
		return nil, fmt.Errorf("seccomp: %d instructions, the kernel takes %d", len(p), maxInstructions)
	}
	return p, nil
}

// Filter turns a program into the form that seccomp(2) takes.
func Filter(p []bpf.RawInstruction) []unix.SockFilter {
	f := make([]unix.SockFilter, len(p))
	for i, in := range p {
		f[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return f
}

// table is the rules of each call of one architecture.
type table struct {
	byNr map[int][]*Rule
	from int // first number that rest decides; 0: none
	rest Action
}

func sortRules(arch Arch, rules []Rule) (table, error) {
	t := table{byNr: make(map[int][]*Rule, 2*len(rules))}
	for i := range rules {
		if err := t.add(arch, &rules[i]); err != nil {
			return t, fmt.Errorf("seccomp: rule %q: %w", rules[i].Name, err)
		}
	}
	for nr := range t.byNr {
		if t.from > 0 && nr >= t.from {
			return t, fmt.Errorf("seccomp: call %d has a rule and is one of those from %d on", nr, t.from)
		}
	}
	return t, nil
}

func (t *table) add(arch Arch, r *Rule) error {
	if err := r.check(); err != nil {
		return err
	}
	if r.From > 0 {
		if t.from > 0 {
			return fmt.Errorf("a second row for all numbers from %d on", r.From)
		}
		t.from, t.rest = r.From, r.Do
		return nil
	}
	for _, name := range r.Calls {
		nr, known := arch.Number(name)
		if !known {
			return fmt.Errorf("unknown call %q", name)
		}
		if nr < 0 {
			continue
		}
		before := t.byNr[nr]
		if n := len(before); n > 0 && len(before[n-1].When) == 0 {
			return fmt.Errorf("%s never comes here, %q decides all of it", name, before[n-1].Name)
		}
		t.byNr[nr] = append(before, r)
	}
	return nil
}

// span is the calls from number first up to the next span, and what decides them.
type span struct {
	first uint32
	do    node
}

// ranges covers every number there is, in order, without neighbours that are
// decided in the same way.
func (a *assembler) ranges(arch Arch, t table, def Action) []span {
	var out []span
	add := func(first int, do node) {
		n := len(out)
		switch {
		case n > 0 && out[n-1].do == do:
		case n > 1 && out[n-1].first == uint32(first) && out[n-2].do == do:
			out = out[:n-1]
		case n > 0 && out[n-1].first == uint32(first):
			out[n-1].do = do
		default:
			out = append(out, span{uint32(first), do})
		}
	}
	add(0, a.ret(def))
	numbers := make([]int, 0, len(t.byNr))
	for nr := range t.byNr {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)
	for _, nr := range numbers {
		add(nr, a.rules(t.byNr[nr], def))
		add(nr+1, a.ret(def))
	}
	if t.from > 0 {
		add(t.from, a.ret(t.rest))
	}
	if arch == AMD64 {
		add(x32Bit, a.ret(Errno(unix.ENOSYS)))
	}
	return out
}

// search finds the span of the number in the accumulator by halves.
func (a *assembler) search(s []span) node {
	if len(s) == 1 {
		return s[0].do
	}
	half := len(s) / 2
	// The lower half is written last, so that it comes first in the program.
	high := a.search(s[half:])
	low := a.search(s[:half])
	return a.branch(opFrom, s[half].first, high, low)
}

// rules decides one call by its arguments.
func (a *assembler) rules(rules []*Rule, def Action) node {
	next := a.ret(def)
	for _, r := range slices.Backward(rules) {
		do := a.ret(r.Do)
		for _, c := range slices.Backward(r.When) {
			do = a.cond(c, do, next)
		}
		next = do
	}
	return next
}

// cond goes on at yes if the condition holds, else at no. The accumulator is
// anybody's afterwards.
func (a *assembler) cond(c Cond, yes, no node) node {
	if c.Op == Above {
		return a.above(c, yes, no)
	}
	found, missed := yes, no
	if c.Op == NotIn {
		found, missed = no, yes
	}
	if c.Mask>>32 == 0 {
		return a.word(c, low, a.values(c.Values, low, found, missed))
	}
	if c.Mask<<32 == 0 {
		return a.word(c, high, a.values(c.Values, high, found, missed))
	}
	n := missed
	for _, v := range slices.Backward(c.Values) {
		rest := a.word(c, low, a.branch(opEqual, low.of(v), found, n))
		n = a.word(c, high, a.branch(opEqual, high.of(v), rest, n))
	}
	return n
}

// values compares the word in the accumulator with the same word of each value.
func (a *assembler) values(values []uint64, h half, found, missed node) node {
	n := missed
	for _, v := range slices.Backward(values) {
		n = a.branch(opEqual, h.of(v), found, n)
	}
	return n
}

func (a *assembler) above(c Cond, yes, no node) node {
	v := c.Values[0]
	n := no
	if c.Mask<<32 != 0 {
		n = a.word(c, low, a.branch(opAbove, low.of(v), yes, no))
	}
	if c.Mask>>32 != 0 {
		n = a.word(c, high, a.branch(opAbove, high.of(v), yes, a.branch(opEqual, high.of(v), n, no)))
	}
	return n
}

// half is one 32-bit word of a 64-bit argument.
type half uint

const (
	low  half = 0
	high half = 1
)

func (h half) of(v uint64) uint32 { return uint32(v >> (32 * h)) }

// word reads one half of the condition's argument, masked, and goes on at next.
func (a *assembler) word(c Cond, h half, next node) node {
	if m := h.of(c.Mask); m != math.MaxUint32 {
		next = a.and(m, next)
	}
	return a.load(offArgs+8*uint32(c.Arg)+4*uint32(h), next)
}
