package attack

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
)

var (
	only  = flag.String("only", "", "run these cases, separated by commas")
	races = flag.Int("races", 0, "how often a race is run")
)

func TestMain(m *testing.M) {
	if handled, exit := Payload(os.Args); handled {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

func TestSuite(t *testing.T) {
	o := Options{Races: *races}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	r, err := Run(t.Context(), o)
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
}

// TestControls runs the controls alone: each attack has to work where nothing
// stops it, as far as this host lets anybody.
func TestControls(t *testing.T) {
	o := Options{Races: 1000}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
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
