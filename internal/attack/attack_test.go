package attack

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sallyport/internal/kernel/caps"
	"sallyport/internal/policy"
)

var (
	only  = flag.String("only", "", "run these cases, separated by commas")
	races = flag.Int("races", 2000, "how often each race is run")
)

// asNobody makes the test binary give up everything that root has, and start
// again, before it runs tests.
const asNobody = "ATTACK_TEST_AS_NOBODY"

func TestMain(m *testing.M) {
	if handled, exit := Payload(os.Args); handled {
		os.Exit(exit)
	}
	if os.Getenv(asNobody) != "" {
		if err := becomeNobody(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

// becomeNobody returns in a process that has no capability in any set, and no
// way to get one.
func becomeNobody() error {
	if os.Geteuid() == 0 {
		return caps.ExecAs(caps.Identity{UID: nobody, GID: nobody}, os.Args[0], os.Args, os.Environ())
	}
	switch sets, err := caps.Read(); {
	case err != nil:
		return err
	case !sets.Empty():
		return fmt.Errorf("uid %d still has capabilities: %+v", os.Geteuid(), sets)
	}
	return nil
}

func options() Options {
	o := Options{Mode: policy.Platform, Races: *races} // the other modes are test/modes'
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	return o
}

// TestSuite runs the whole suite as the user who runs the tests and, when that
// is root, again as uid 65534 with empty capability sets and no_new_privs.
func TestSuite(t *testing.T) {
	t.Run("caller", func(t *testing.T) {
		r, err := Run(t.Context(), options())
		if err != nil {
			t.Fatal(err)
		}
		r.Table(t.Output())
		if testing.Verbose() {
			for _, v := range r.Results {
				t.Logf("%5d ms %s: %s", v.Millis, v.Case, v.Detail)
			}
		}
		if r.Red() {
			t.Error("red")
		}
	})
	if os.Geteuid() == 0 {
		t.Run("nobody", suiteAsNobody)
	}
}

func suiteAsNobody(t *testing.T) {
	dir, err := os.MkdirTemp("", "sallyport-attack-test-") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "attack.test")
	if err := copyFile(self, exe); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestSuite$", "-test.v", "-test.timeout=15m",
		"-races="+strconv.Itoa(*races), "-only="+*only)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), asNobody+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), " 0 ESCAPED") {
		t.Errorf("as uid %d: %v", nobody, err)
	}
}

// TestControls runs the controls alone: each attack has to work where nothing
// stops it, as far as this host lets anybody.
func TestControls(t *testing.T) {
	o := options()
	cases, err := choose(o.Only)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sallyport-attack-") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s, err := newSuite(o, dir)
	if err != nil {
		t.Fatal(err)
	}
	cases = slices.DeleteFunc(cases, func(c Case) bool { return c.control == noControl || c.lacking() != "" })
	sides, err := s.side(t.Context(), false, "", cases)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			v := sides[c.Name]
			if v.problem != "" || len(v.steps) == 0 {
				t.Fatalf("%d steps, %s", len(v.steps), v.problem)
			}
			for _, s := range v.steps {
				if s.Probe || s.State == stateDone || s.State == stateAbsent || slices.Contains(c.held, s.Errno) {
					continue
				}
				t.Errorf("%s: %s %s %s", s.Name, s.State, s.Errno, s.Detail)
			}
		})
	}
}
