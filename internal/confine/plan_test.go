package confine

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/kernel/probe"
	"sallyport/internal/policy"
)

var update = flag.Bool("update", false, "write the golden files")

func host(abi int) probe.Facts {
	return probe.Facts{LandlockABI: abi, ProcMem: true, ProcFD: true, SeccompNotify: probe.SeccompNotify{NewListener: true, WaitKillable: true}}
}

func input(c policy.Compatibility) Input {
	return Input{
		Policy: &policy.Policy{
			Landlock:   policy.Landlock{Compatibility: c},
			Filesystem: policy.Filesystem{IncludeWorkdir: true, ReadOnly: []string{"/usr", "/etc"}, ReadWrite: []string{"/tmp"}},
		},
		Workdir: "/work", ProxyPort: 3128,
	}
}

// TestBuildGolden pins the whole plan for each kind of host. What changes here
// changes what is enforced.
func TestBuildGolden(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Input
		f    probe.Facts
	}{
		{"abi7", input(policy.HardRequirement), host(7)},
		{"abi9", input(policy.HardRequirement), host(9)},
		{"abi2_best_effort", input(policy.BestEffort), host(2)},
		{"namespace", func() Input { i := input(policy.HardRequirement); i.Network = VethNetwork; return i }(), host(7)},
		{"userns", func() Input { i := input(policy.HardRequirement); i.Network = UserNetwork; return i }(), host(7)},
		{"gate_left_out", func() Input { i := input(policy.HardRequirement); i.Off = WallGate; return i }(), host(7)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Build(tt.in, tt.f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", tt.name+".json")
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)+"\n"); d != "" {
				t.Errorf("plan differs from %s (-want +got):\n%s", golden, d)
			}
		})
	}
}

// A layer whose absence opens a way out refuses; a second wall may be lost when
// the policy says so.
func TestBuildRefuses(t *testing.T) {
	noNotify := host(7)
	noNotify.SeccompNotify = probe.SeccompNotify{Why: "blocked"}
	yama := host(7)
	yama.ProcMem, yama.Yama = false, 3
	tried := func(n Network) Input {
		in := input(policy.HardRequirement)
		in.Network, in.Tried = n, true
		return in
	}
	works := host(7)
	works.NetNS, works.UserNet = probe.Trial{Works: true}, probe.Trial{Works: true}
	for _, tt := range []struct {
		name string
		in   Input
		f    probe.Facts
		want string // part of the refusal; empty: a plan
	}{
		{"no Landlock", input(policy.BestEffort), host(0), "files cannot be held"},
		{"no gate", input(policy.BestEffort), noNotify, "user notification is not available: blocked"},
		{"Yama 3", input(policy.BestEffort), yama, "ptrace_scope 3"},
		{"ABI 3, hard", input(policy.HardRequirement), host(3), "signalled"},
		{"ABI 2, hard", input(policy.HardRequirement), host(2), "truncate"},
		{"ABI 1, best effort", input(policy.BestEffort), host(1), ""},
		{"ABI 6, hard", input(policy.HardRequirement), host(6), ""},
		{"no network namespace", tried(VethNetwork), host(7), "no network namespace can be made"},
		{"no user namespace", tried(UserNetwork), host(7), "no user namespace can be had"},
		{"network namespace", tried(VethNetwork), works, ""},
		{"user namespace", tried(UserNetwork), works, ""},
	} {
		_, err := Build(tt.in, tt.f)
		var refused *RefusedError
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: Build = %v, want a plan", tt.name, err)
		case tt.want != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) || refused.Hint() == ""):
			t.Errorf("%s: Build = %v, want a refusal with %q and a hint", tt.name, err, tt.want)
		}
	}
}

// Without a gate the Landlock rule grants the proxy's port; with it, none.
func TestPortRule(t *testing.T) {
	for _, tt := range []struct {
		off  Walls
		want []uint16
	}{{0, nil}, {WallGate, []uint16{3128}}, {WallPorts, nil}} {
		in := input(policy.HardRequirement)
		in.Off = tt.off
		p, err := Build(in, host(7))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, p.ConnectPorts); d != "" {
			t.Errorf("without %q: ports differ:\n%s", tt.off, d)
		}
		if (p.HandledNet == 0) != (tt.off == WallPorts) {
			t.Errorf("without %q: handled = %v", tt.off, p.HandledNet)
		}
	}
}
