package confine

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/seccomp"
)

var (
	full   = FilterOptions{Gate: true, Static: true}
	noGate = FilterOptions{Static: true}
	arches = []seccomp.Arch{seccomp.AMD64, seccomp.ARM64}
)

// simulate runs a filter on one call. The kernel reads words of struct seccomp_data
// in host order, low half of an argument first; bpf.VM reads a packet as
// big-endian, so every word is written that way, at its place.
func simulate(t testing.TB, filter []unix.SockFilter, arch seccomp.Arch, nr int, args [6]uint64) seccomp.Action {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(filter))
	for i, f := range filter {
		raw[i] = bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	prog, decoded := bpf.Disassemble(raw)
	if !decoded {
		t.Fatal("x/net/bpf does not know an instruction")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	words := []uint32{uint32(nr), arch.Audit(), 0, 0}
	for _, a := range args {
		words = append(words, uint32(a), uint32(a>>32))
	}
	var packet []byte
	for _, w := range words {
		packet = binary.BigEndian.AppendUint32(packet, w)
	}
	r, err := vm.Run(packet)
	if err != nil {
		t.Fatal(err)
	}
	return seccomp.Action(uint32(r))
}

func program(t testing.TB, arch seccomp.Arch, o FilterOptions) []unix.SockFilter {
	t.Helper()
	f, err := FilterProgram(arch, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestTableGolden pins the table as people read it. Every change of what the filter
// does is a change of these files.
func TestTableGolden(t *testing.T) {
	for _, arch := range arches {
		t.Run(arch.String(), func(t *testing.T) {
			golden(t, "filter_"+arch.String()+".txt", printTable(FilterRules(arch, full)))
			golden(t, "filter_"+arch.String()+"_without_gate.txt", printTable(FilterRules(arch, noGate)))
			golden(t, "filter_"+arch.String()+"_default.txt", printDefault(arch))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func printTable(rules []seccomp.Rule) string {
	var b strings.Builder
	for _, r := range rules {
		calls := strings.Join(r.Calls, " ")
		if r.From > 0 {
			calls = fmt.Sprintf("every number from %d on", r.From)
		}
		var conds []string
		for _, c := range r.When {
			conds = append(conds, c.String())
		}
		fmt.Fprintf(&b, "%s: %v\n    %s\n", r.Name, r.Do, calls)
		if conds != nil {
			fmt.Fprintf(&b, "    if %s\n", strings.Join(conds, " and "))
		}
		fmt.Fprintf(&b, "    %s\n\n", r.Why)
	}
	return b.String()
}

// printDefault lists the calls that no row names: they are allowed because nobody
// found a reason against them. A new number shows up here.
func printDefault(arch seccomp.Arch) string {
	named := map[string]bool{}
	for _, r := range FilterRules(arch, full) {
		for _, c := range r.Calls {
			named[c] = true
		}
	}
	var b strings.Builder
	calls := arch.Calls()
	for nr := range arch.Newest() + 1 {
		if name, is := calls[nr]; is && !named[name] {
			fmt.Fprintf(&b, "%d %s\n", nr, name)
		}
	}
	return b.String()
}

// Every row has a reason, and the table names no call twice for the same thing.
func TestTableIsReadable(t *testing.T) {
	for _, r := range FilterRules(seccomp.AMD64, full) {
		if r.Name == "" || len(r.Why) < 15 || strings.HasSuffix(r.Why, ".") {
			t.Errorf("row %q: why %q, want a sentence without a full stop", r.Name, r.Why)
		}
	}
}

// TestEveryRow finds for each row and call arguments that this row decides, and
// checks that the program agrees. A row that nothing reaches has none.
func TestEveryRow(t *testing.T) {
	for _, arch := range arches {
		for _, o := range []FilterOptions{full, noGate, {Gate: true}, {Gate: true, Static: true, SharedIPC: true}} {
			rules, filter := FilterRules(arch, o), program(t, arch, o)
			for i, r := range rules {
				if r.From > 0 {
					for _, nr := range []int{r.From, r.From + 1, 1 << 29} {
						if got := simulate(t, filter, arch, nr, [6]uint64{}); got != r.Do {
							t.Errorf("%v %+v: call %d: %v, want %v", arch, o, nr, got, r.Do)
						}
					}
				}
				for _, name := range r.Calls {
					nr, _ := arch.Number(name)
					args, found := witness(rules[:i], r, name)
					if !found {
						t.Errorf("%v %+v: no %s reaches row %q", arch, o, name, r.Name)
						continue
					}
					if got := simulate(t, filter, arch, nr, args); got != r.Do {
						t.Errorf("%v %+v: row %q: %s%#x: %v, want %v", arch, o, r.Name, name, args, got, r.Do)
					}
				}
			}
		}
	}
}

// witness searches arguments for a row that no earlier row takes.
func witness(before []seccomp.Rule, r seccomp.Rule, name string) ([6]uint64, bool) {
	var earlier [][]seccomp.Cond
	candidates := [6][]uint64{}
	add := func(when []seccomp.Cond) {
		for _, c := range when {
			for _, v := range c.Values {
				candidates[c.Arg] = append(candidates[c.Arg], v, v|^c.Mask, c.Mask&^v)
			}
		}
	}
	add(r.When)
	for _, b := range before {
		if slices.Contains(b.Calls, name) {
			earlier = append(earlier, b.When)
			add(b.When)
		}
	}
	var args [6]uint64
	var try func(i int) bool
	try = func(i int) bool {
		if i == len(args) {
			return holds(r.When, args) && !slices.ContainsFunc(earlier, func(w []seccomp.Cond) bool { return holds(w, args) })
		}
		tried := append(candidates[i], 0, 77)
		slices.Sort(tried)
		for _, v := range slices.Compact(tried) {
			args[i] = v
			if try(i + 1) {
				return true
			}
		}
		return false
	}
	return args, try(0)
}

// holds is what conditions mean, said once more and differently.
func holds(when []seccomp.Cond, args [6]uint64) bool {
	for _, c := range when {
		in := slices.Contains(c.Values, args[c.Arg]&c.Mask)
		switch c.Op {
		case seccomp.In:
			if !in {
				return false
			}
		case seccomp.NotIn:
			if in {
				return false
			}
		default:
			return false // the table does not use the others
		}
	}
	return true
}

// Every number that the architecture has is decided on purpose: by a row or by
// being in the list of TestTableGolden. Numbers between are allowed to reach the
// kernel, which does not have them; those above are ENOSYS.
func TestEveryNumber(t *testing.T) {
	for _, arch := range arches {
		rules, filter := FilterRules(arch, full), program(t, arch, full)
		names := arch.Calls()
		for nr := range arch.Newest() + 50 {
			want := seccomp.Allow
			var args [6]uint64
			for _, r := range rules {
				if r.From > 0 && nr >= r.From || slices.Contains(r.Calls, names[nr]) && holds(r.When, args) {
					want = r.Do
					break
				}
			}
			if got := simulate(t, filter, arch, nr, args); got != want {
				t.Errorf("%v: call %d %s: %v, want %v", arch, nr, names[nr], got, want)
			}
		}
	}
}

// The filter without the static rows notifies the same calls and decides nothing.
func TestWithoutStatic(t *testing.T) {
	for _, r := range FilterRules(seccomp.AMD64, FilterOptions{Gate: true}) {
		if r.Do != seccomp.Notify {
			t.Errorf("row %q decides %v", r.Name, r.Do)
		}
	}
	for _, r := range FilterRules(seccomp.AMD64, noGate) {
		if r.Do == seccomp.Notify {
			t.Errorf("row %q notifies", r.Name)
		}
	}
}

func TestProgramSize(t *testing.T) {
	for _, arch := range arches {
		n := len(program(t, arch, full))
		t.Logf("%v: %d instructions, %d rows", arch, n, len(FilterRules(arch, full)))
		if n > 500 {
			t.Errorf("%v: %d instructions, expected at most 500", arch, n)
		}
	}
}

func BenchmarkFilterProgram(b *testing.B) {
	for b.Loop() {
		if _, err := FilterProgram(seccomp.Native, full); err != nil {
			b.Fatal(err)
		}
	}
}
