package seccomp

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const enosys = Action(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))

// Every row is tried on both architectures with the arguments given, where the
// upper half of an int is always filled with rubbish as well.
func TestCompile(t *testing.T) {
	eperm, einval := Errno(unix.EPERM), Errno(unix.EINVAL)
	const junk = 0xdeadbeef << 32
	type args = [6]uint64
	tests := []struct {
		name  string
		rules []Rule
		args  args
		want  Action
	}{
		{"default", []Rule{{Calls: []string{"bind"}, Do: eperm}}, args{}, Allow},
		{"always", []Rule{{Calls: []string{"socket"}, Do: eperm}}, args{1, 2, 3}, eperm},
		{"one_of_many_calls", []Rule{{Calls: []string{"bind", "socket"}, Do: Notify}}, args{}, Notify},
		{"first_wins", []Rule{
			{Calls: []string{"socket"}, When: []Cond{Int(0).Is(2)}, Do: eperm},
			{Calls: []string{"socket"}, Do: einval}}, args{2}, eperm},
		{"falls_to_second", []Rule{
			{Calls: []string{"socket"}, When: []Cond{Int(0).Is(2)}, Do: eperm},
			{Calls: []string{"socket"}, Do: einval}}, args{3}, einval},
		{"all_conditions", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(0).Is(2), Int(1).Is(1)}, Do: eperm}}, args{2, 1}, eperm},
		{"not_all_conditions", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(0).Is(2), Int(1).Is(1)}, Do: eperm}}, args{2, 2}, Allow},
		{"one_of_values", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(0).Is(2, 10)}, Do: eperm}}, args{10}, eperm},
		{"none_of_values", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(0).IsNot(2, 10)}, Do: eperm}}, args{1}, eperm},
		{"not_none_of_values", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(0).IsNot(2, 10)}, Do: eperm}}, args{10}, Allow},
		{"int_ignores_high_half", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(0).Is(2)}, Do: eperm}}, args{junk | 2}, eperm},
		{"int_not_ignores_high_half", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(0).IsNot(2)}, Do: eperm}}, args{junk | 2}, Allow},
		{"word_sees_high_half", []Rule{{Calls: []string{"socket"}, When: []Cond{Word(0).Is(2)}, Do: eperm}}, args{1<<32 | 2}, Allow},
		{"word_high_value", []Rule{{Calls: []string{"socket"}, When: []Cond{Word(0).Is(1<<40 | 2)}, Do: eperm}}, args{1<<40 | 2}, eperm},
		{"word_same_high_half", []Rule{{Calls: []string{"socket"}, When: []Cond{Word(0).Is(1<<40, 1<<40|2)}, Do: eperm}}, args{1<<40 | 2}, eperm},
		{"pointer_high_only", []Rule{{Calls: []string{"sendto"}, When: []Cond{Word(4).IsNot(0)}, Do: eperm}}, args{}, Allow},
		{"bits", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(1).And(0xf).Is(1)}, Do: eperm}}, args{0, 0x80001}, eperm},
		{"has", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(1).Has(0xc)}, Do: eperm}}, args{0, 0x8}, eperm},
		{"has_not", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(1).Has(0xc)}, Do: eperm}}, args{0, junk | 0x3}, Allow},
		{"high_bits_only", []Rule{{Calls: []string{"socket"}, When: []Cond{Word(1).Has(1 << 40)}, Do: eperm}}, args{0, 1 << 40}, eperm},
		{"above", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(5).Above(7)}, Do: eperm}}, args{5: 8}, eperm},
		{"not_above", []Rule{{Calls: []string{"socket"}, When: []Cond{Int(5).Above(7)}, Do: eperm}}, args{5: junk | 7}, Allow},
		{"word_above_by_high_half", []Rule{{Calls: []string{"socket"}, When: []Cond{Word(5).Above(7)}, Do: eperm}}, args{5: 1 << 32}, eperm},
		{"word_above_by_low_half", []Rule{{Calls: []string{"socket"}, When: []Cond{Word(5).Above(1<<32 | 7)}, Do: eperm}}, args{5: 1<<32 | 8}, eperm},
		{"word_not_above_by_high_half", []Rule{{Calls: []string{"socket"}, When: []Cond{Word(5).Above(2<<32 | 7)}, Do: eperm}}, args{5: 1<<32 | 8}, Allow},
	}
	for _, tt := range tests {
		for _, arch := range []Arch{AMD64, ARM64} {
			t.Run(tt.name+"/"+arch.String(), func(t *testing.T) {
				p, err := Compile(arch, tt.rules, Allow)
				if err != nil {
					t.Fatal(err)
				}
				name := tt.rules[0].Calls[len(tt.rules[0].Calls)-1]
				if tt.name == "default" {
					name = "getpid"
				}
				if tt.name == "pointer_high_only" {
					if got := newMachine(t, p).run(call1(arch, name, args{4: 1 << 32})); got != eperm {
						t.Errorf("pointer with a zero low half: %v, want %v", got, eperm)
					}
				}
				d := call1(arch, name, tt.args)
				if got := newMachine(t, p).run(d); got != tt.want {
					t.Errorf("%+v: %v, want %v", d, got, tt.want)
				}
				if got := interpret(arch, tt.rules, Allow, d); got != tt.want {
					t.Errorf("interpreter: %v, want %v", got, tt.want)
				}
			})
		}
	}
}

func call1(arch Arch, name string, args [6]uint64) data {
	nr, _ := arch.Number(name)
	return data{nr: uint32(nr), arch: arch.Audit(), args: args}
}

func TestArchitectures(t *testing.T) {
	rules := []Rule{
		{Name: "one", Calls: []string{"getpid"}, Do: Errno(unix.EPERM)},
		{Name: "new", From: newest + 1, Do: enosys},
	}
	tests := []struct {
		name string
		on   Arch
		d    data
		want Action
	}{
		{"own", AMD64, data{nr: 39, arch: unix.AUDIT_ARCH_X86_64}, Errno(unix.EPERM)},
		{"own", ARM64, data{nr: 172, arch: unix.AUDIT_ARCH_AARCH64}, Errno(unix.EPERM)},
		{"i386", AMD64, data{nr: 20, arch: unix.AUDIT_ARCH_I386}, KillProcess},
		{"arm", ARM64, data{nr: 20, arch: unix.AUDIT_ARCH_ARM}, KillProcess},
		{"each_other", AMD64, data{nr: 172, arch: unix.AUDIT_ARCH_AARCH64}, KillProcess},
		{"each_other", ARM64, data{nr: 39, arch: unix.AUDIT_ARCH_X86_64}, KillProcess},
		{"big_endian", ARM64, data{nr: 172, arch: unix.AUDIT_ARCH_AARCH64 &^ 0x40000000}, KillProcess},
		{"x32", AMD64, data{nr: x32Bit + 39, arch: unix.AUDIT_ARCH_X86_64}, enosys},
		{"x32_own", AMD64, data{nr: x32Bit + 520, arch: unix.AUDIT_ARCH_X86_64}, enosys},
		{"minus_one", AMD64, data{nr: 1<<32 - 1, arch: unix.AUDIT_ARCH_X86_64}, enosys},
		{"minus_one", ARM64, data{nr: 1<<32 - 1, arch: unix.AUDIT_ARCH_AARCH64}, enosys},
		{"newest", AMD64, data{nr: newest, arch: unix.AUDIT_ARCH_X86_64}, Allow},
		{"newer", AMD64, data{nr: newest + 1, arch: unix.AUDIT_ARCH_X86_64}, enosys},
	}
	for _, tt := range tests {
		t.Run(tt.name+"/"+tt.on.String(), func(t *testing.T) {
			p, err := Compile(tt.on, rules, Allow)
			if err != nil {
				t.Fatal(err)
			}
			if got := newMachine(t, p).run(tt.d); got != tt.want {
				t.Errorf("%+v: %v, want %v", tt.d, got, tt.want)
			}
		})
	}
	p, err := Compile(AMD64, nil, Allow)
	if err != nil {
		t.Fatal(err)
	}
	if got := newMachine(t, p).run(data{nr: x32Bit, arch: unix.AUDIT_ARCH_X86_64}); got != enosys {
		t.Errorf("x32 without a row for new numbers: %v, want %v", got, enosys)
	}
}

func TestCompileErrors(t *testing.T) {
	ok := []string{"bind"}
	tests := []struct {
		name string
		arch Arch
		rule Rule
		def  Action
		want string
	}{
		{"architecture", 0, Rule{Calls: ok, Do: Allow}, Allow, "unknown architecture"},
		{"default", AMD64, Rule{Calls: ok, Do: Allow}, 77, "is not an action"},
		{"no_action", AMD64, Rule{Calls: ok}, Allow, "is not an action"},
		{"errno_zero", AMD64, Rule{Calls: ok, Do: Errno(0)}, Allow, "is not an action"},
		{"errno_range", AMD64, Rule{Calls: ok, Do: Errno(4096)}, Allow, "is not an action"},
		{"no_calls", AMD64, Rule{Do: Allow}, Allow, "no calls"},
		{"unknown_call", AMD64, Rule{Calls: []string{"opne"}, Do: Allow}, Allow, `unknown call "opne"`},
		{"argument", AMD64, Rule{Calls: ok, Do: Allow, When: []Cond{Int(6).Is(1)}}, Allow, "argument 6"},
		{"comparison", AMD64, Rule{Calls: ok, Do: Allow, When: []Cond{{Mask: 1, Values: []uint64{1}}}}, Allow, "without a comparison"},
		{"values", AMD64, Rule{Calls: ok, Do: Allow, When: []Cond{Int(0).Is()}}, Allow, "0 values"},
		{"mask", AMD64, Rule{Calls: ok, Do: Allow, When: []Cond{Int(0).And(0).Is(0)}}, Allow, "on no bit"},
		{"value_outside_mask", AMD64, Rule{Calls: ok, Do: Allow, When: []Cond{Int(0).Is(1 << 32)}}, Allow, "outside of the mask"},
		{"from_with_calls", AMD64, Rule{From: 9, Calls: ok, Do: Allow}, Allow, "neither calls nor conditions"},
		{"from_below_a_call", AMD64, Rule{From: 9, Do: Allow}, Allow, "one of those from 9 on"},
		{"from_range", AMD64, Rule{From: x32Bit, Do: Allow}, Allow, "out of range"},
		{"unreachable", AMD64, Rule{Name: "second", Calls: ok, Do: Allow}, Allow, `"second": bind never comes here, "first" decides`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules := []Rule{tt.rule}
			if tt.name == "unreachable" || tt.name == "from_below_a_call" {
				rules = []Rule{{Name: "first", Calls: ok, Do: Notify}, tt.rule}
			}
			_, err := Compile(tt.arch, rules, tt.def)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Compile: %v, want an error with %q", err, tt.want)
			}
		})
	}
	twice := []Rule{{From: 9, Do: Allow}, {From: 10, Do: Allow}}
	if _, err := Compile(AMD64, twice, Allow); err == nil {
		t.Error("two rows for all further numbers were taken")
	}
}

// A program whose parts are further apart than a conditional jump can reach.
func TestLongJumps(t *testing.T) {
	var rules []Rule
	for i, c := range calls {
		if c.amd64 < 0 || i%3 == 0 {
			continue
		}
		for j := range uint64(4) {
			rules = append(rules, Rule{
				Calls: []string{c.name}, Do: Errno(unix.Errno(1 + (uint64(i)+j)%40)),
				When: []Cond{Word(i%6).Is(j<<32|uint64(i), 1<<60|j)},
			})
		}
	}
	p, err := Compile(AMD64, rules[:300], Allow)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(p, func(i instruction) bool { return i.Op == opGoto && i.K > 255 }) {
		t.Errorf("%d instructions without a long jump: the test does not test it", len(p))
	}
	m := newMachine(t, p)
	for nr := range uint32(500) {
		for arg := range uint64(6) {
			for _, v := range []uint64{uint64(nr), 1<<32 | uint64(nr), 1<<60 | arg} {
				d := data{nr: nr, arch: unix.AUDIT_ARCH_X86_64}
				d.args[arg] = v
				if got, want := m.run(d), interpret(AMD64, rules[:300], Allow, d); got != want {
					t.Fatalf("%+v: %v, want %v", d, got, want)
				}
			}
		}
	}
	if _, err := Compile(AMD64, append(rules, rules...), Allow); err == nil {
		t.Error("a program that is too long for the kernel was taken")
	}
}

func TestStrings(t *testing.T) {
	got := []string{
		Allow.String(), Notify.String(), KillProcess.String(), Errno(unix.EACCES).String(), Action(3).String(),
		Int(0).Is(2, 10).String(), Int(1).And(0xf).IsNot(1).String(), Word(4).IsNot(0).String(),
		Word(2).And(1 << 40).Is(0).String(), Int(3).Above(5).String(), AMD64.String(), Arch(0).String(),
	}
	want := []string{
		"allow", "notify", "kill", "EACCES", "action 0x3",
		"int x0 = 0x2|0xa", "int x1&0xf ≠ 0x1", "x4 ≠ 0x0",
		"x2&0x10000000000 = 0x0", "int x3 > 0x5", "amd64", "unknown architecture",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("strings (-want +got):\n%s", diff)
	}
}

// The table of calls is sorted, and is what golang.org/x/sys/unix knows: a new
// number there has to be looked at here.
func TestCalls(t *testing.T) {
	if !slices.IsSortedFunc(calls[:], func(a, b call) int { return strings.Compare(a.name, b.name) }) {
		t.Error("calls is not sorted by name")
	}
	dir := sysDir(t)
	for _, arch := range []Arch{AMD64, ARM64} {
		src, err := os.ReadFile(filepath.Join(dir, "unix", "zsysnum_linux_"+arch.String()+".go"))
		if err != nil {
			t.Fatal(err)
		}
		want := map[int]string{}
		for _, m := range regexp.MustCompile(`(?m)^\s+SYS_(\w+)\s*=\s*(\d+)$`).FindAllStringSubmatch(string(src), -1) {
			nr, err := strconv.Atoi(m[2])
			if err != nil {
				t.Fatal(err)
			}
			if m[1] != "ARCH_SPECIFIC_SYSCALL" { // the first of a range, not a call
				want[nr] = strings.ToLower(m[1])
			}
		}
		if diff := cmp.Diff(want, arch.Calls()); diff != "" {
			t.Errorf("calls of %v (-x/sys +ours):\n%s", arch, diff)
		}
		for nr := range want {
			if nr > arch.Newest() {
				t.Errorf("%v: call %d is newer than newest", arch, nr)
			}
		}
	}
}

func sysDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs the go command, to find the source of x/sys")
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestNative(t *testing.T) {
	for name, want := range map[string]int{
		"socket": unix.SYS_SOCKET, "connect": unix.SYS_CONNECT, "openat": unix.SYS_OPENAT,
		"seccomp": unix.SYS_SECCOMP, "clone3": unix.SYS_CLONE3,
	} {
		if got, known := Native.Number(name); got != want || !known {
			t.Errorf("number of %s: %d, want %d", name, got, want)
		}
	}
	if nr, known := ARM64.Number("fork"); nr != -1 || !known {
		t.Errorf("fork on arm64: %d, %v, want -1, true", nr, known)
	}
}
