package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// report is the JSON of the escape suite.
type report struct {
	Results []struct {
		Case    string `json:"case"`
		Verdict string `json:"verdict"`
		Errno   string `json:"errno"`
		Detail  string `json:"detail"`
	} `json:"results"`
	Counts map[string]int `json:"counts"`
}

// attack runs the suite in a pod that has the manifest's security context and no
// supervisor around it: the suite starts its own, by the same code.
func attack(t *testing.T, name string, flags []string, command ...string) (report, state) {
	t.Helper()
	m := generate(t, name, "", append([]string{"--cpu", "2", "--memory", "2Gi"}, flags...), command...).plain()
	s, log := m.finish(t, 5*time.Minute)
	var r report
	if err := json.Unmarshal([]byte(log), &r); err != nil {
		t.Fatalf("%v: %+v\n%s", err, s, log)
	}
	t.Logf("%s, %s: %d cases: %v", name, runtimeName, len(r.Results), r.Counts)
	return r, s
}

func (r report) red() string {
	var b strings.Builder
	for _, v := range r.Results {
		if v.Verdict == "ESCAPED" || v.Verdict == "BROKEN" {
			fmt.Fprintf(&b, "%s %s: %s %s\n", v.Verdict, v.Case, v.Errno, v.Detail)
		}
	}
	return b.String()
}

// TestAttack: nothing escapes in a restricted pod, whoever the platform makes of
// the agent.
func TestAttack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		flags  []string
		modern bool // needs the second generation
	}{
		{name: "default"},
		{name: "arbitrary-user", flags: []string{"--run-as-user", "1000680000"}},
		{name: "user-namespace", flags: []string{"--host-users", "false"}, modern: true},
		{name: "shared-processes", flags: []string{"--share-processes"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.modern && !modern() {
				t.Skip("containerd 1.6 cannot give a pod a user namespace")
			}
			r, s := attack(t, "attack-"+tt.name, tt.flags, "sallyport", "attack", "--json")
			if red := r.red(); red != "" || s.code != 0 || len(r.Results) < 50 {
				t.Errorf("status %d, %d cases\n%s", s.code, len(r.Results), red)
			}
		})
	}
}

// wholeVar runs the whole suite with each wall left out, and not only the cases
// that no other wall stops. That is for a person who wants to see what each wall
// carries: what it prints is in docs/kubernetes.md.
const wholeVar = "SALLYPORT_E2E_WHOLE"

// TestWallsRemoved: the same pod with one wall less is red, for each wall.
func TestWallsRemoved(t *testing.T) {
	for wall, cases := range map[string]string{
		"landlock-files":  "only_landlock_files",
		"landlock-ports":  "only_landlock_ports",
		"landlock-scopes": "only_landlock_scopes",
		"seccomp-filter":  "only_seccomp_filter",
		"gate":            "only_gate",
	} {
		t.Run(wall, func(t *testing.T) {
			suite := []string{"breach", "-only", cases}
			if os.Getenv(wholeVar) != "" {
				suite = suite[:1]
			}
			r, s := attack(t, "breach-"+wall, nil, suite...)
			if s.code != 0 || r.red() != "" {
				t.Errorf("control: status %d\n%s", s.code, r.red())
			}
			r, s = attack(t, "breach-no-"+wall, nil, append(suite, "-off", wall)...)
			if s.code != 1 || !strings.Contains(r.red(), "ESCAPED "+cases) {
				t.Errorf("without %s: status %d\n%+v", wall, s.code, r)
			}
			t.Logf("without %s:\n%s", wall, r.red())
		})
	}
}

// TestDoctor: in a restricted pod, doctor finds everything that is needed.
func TestDoctor(t *testing.T) {
	s, log := generate(t, "doctor", "", nil, "sallyport", "doctor").plain().finish(t, aWhile)
	if s.code != 0 || !strings.HasPrefix(log, "platform mode holds on this host") {
		t.Errorf("status %d\n%s", s.code, log)
	}
	t.Log(log)
}
