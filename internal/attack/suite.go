package attack

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sallyport/internal/confine"
	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
)

// Options say what to try.
type Options struct {
	Only []string // names of cases; empty: all of them

	// Races is how often each race is run, whatever time that takes. 0: the main
	// race is run DefaultRaces times and the others a tenth of it, for as long as
	// raceBudget allows.
	Races int

	// Ran, if set, is told of each case that has ended, inside a sandbox or as
	// its own control.
	Ran func(name string, inside bool)

	// Mode is the network enforcement mode of every sandbox of the suite; unset:
	// the one that run would take.
	Mode policy.Mode

	// Off leaves walls out of every sandbox of the suite. Only a test may set
	// it, to see that the suite turns red.
	Off confine.Walls
}

// DefaultRaces is the number of raced calls of the main race.
const DefaultRaces = 100_000

// allWalls are the walls that a test can leave out.
const allWalls = confine.WallFiles | confine.WallPorts | confine.WallScopes | confine.WallFilter | confine.WallGate

// Run tries every case on this host. The error is about the suite itself: it
// could not be prepared, or there is no such case.
func Run(ctx context.Context, o Options) (*Report, error) {
	reports, err := RunModes(ctx, o, o.Mode)
	if err != nil {
		return nil, err
	}
	return reports[0], nil
}

// RunModes is Run in one mode after the other, with a report for each. Controls
// are run once: no mode is theirs.
func RunModes(ctx context.Context, o Options, modes ...policy.Mode) ([]*Report, error) {
	cases, err := choose(o.Only)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sallyport-attack-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s, err := newSuite(o, dir)
	if err != nil {
		return nil, err
	}
	out, err := s.controls(ctx, cases)
	if err != nil {
		return nil, err
	}
	var reports []*Report
	for _, m := range modes {
		r, err := s.inMode(ctx, m, cases, out)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// withoutWall takes back that a wall may stop the cases: it is not there.
func withoutWall(cases []Case, w Wall) []Case {
	for i := range cases {
		cases[i].stops = slices.DeleteFunc(slices.Clone(cases[i].stops), func(s stop) bool { return s.wall == w })
	}
	return cases
}

// newSuite makes ready below dir what all scenes use.
func newSuite(o Options, dir string) (*suite, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	s := &suite{o: o, dir: dir, agent: who{os.Getuid(), os.Getgid()}}
	if s.agent.uid == 0 {
		s.agent = who{nobody, nobody}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir+"/bin", 0o755); err != nil {
		return nil, err
	}
	s.exe, err = stageTools(dir + "/bin")
	return s, err
}

// choose picks cases by name, in the order of the table.
func choose(only []string) ([]Case, error) {
	all := Cases()
	if len(only) == 0 {
		return all, nil
	}
	for _, name := range only {
		if !slices.ContainsFunc(all, func(c Case) bool { return c.Name == name }) {
			return nil, fmt.Errorf("no case is called %q; --list shows them", name)
		}
	}
	return slices.DeleteFunc(all, func(c Case) bool { return !slices.Contains(only, c.Name) }), nil
}

type suite struct {
	o     Options
	dir   string
	exe   string
	agent who
	n     int
}

// controls runs the cases that have a control, unsandboxed.
func (s *suite) controls(ctx context.Context, cases []Case) (map[string]side, error) {
	return s.side(ctx, false, "", slices.DeleteFunc(slices.Clone(cases), func(c Case) bool {
		return c.control == noControl || c.lacking() != ""
	}))
}

// inMode runs each group of cases in a sandbox of its own, in that mode or the
// one that run would take, and judges them by their controls.
func (s *suite) inMode(ctx context.Context, m policy.Mode, cases []Case, out map[string]side) (*Report, error) {
	report := &Report{}
	if m == policy.ModeUnset {
		c := supervisor.Automatic()
		m, report.Why = c.Mode, c.Why
	}
	s.o.Mode, report.Mode = m, m.String()
	if m == policy.Platform {
		cases = withoutWall(slices.Clone(cases), WallNamespace)
	}
	able := slices.DeleteFunc(slices.Clone(cases), func(c Case) bool { return c.lacking() != "" })
	in := map[string]side{}
	for _, group := range groups(able) {
		got, err := s.side(ctx, true, group, inGroup(able, group))
		if err != nil {
			return nil, err
		}
		maps.Copy(in, got)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	for _, c := range cases {
		r := Result{Case: c.Name, Category: c.Category, What: c.What, Verdict: Skipped, Detail: c.lacking()}
		if r.Detail == "" {
			r = judge(c, out[c.Name], in[c.Name])
		}
		report.add(r)
	}
	return report, nil
}

func groups(cases []Case) []string {
	var out []string
	for _, c := range cases {
		if !slices.Contains(out, c.group) {
			out = append(out, c.group)
		}
	}
	return out
}

func inGroup(cases []Case, group string) []Case {
	var out []Case
	for _, c := range cases {
		if c.group == group {
			out = append(out, c)
		}
	}
	return out
}

// side runs cases in a scene of their own.
func (s *suite) side(ctx context.Context, inside bool, group string, cases []Case) (map[string]side, error) {
	if len(cases) == 0 {
		return nil, nil
	}
	s.n++
	dir := filepath.Join(s.dir, fmt.Sprint(s.n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	sc, err := newScene(dir, s.exe, s.agent, inside, cases)
	if err != nil {
		return nil, err
	}
	defer sc.close()
	sc.spec.Races = s.o.Races
	off, extra := s.shape(sc, group)
	r := sc.newRunner(cases)
	r.mode, r.ran = s.o.Mode, s.o.Ran
	return r.run(ctx, off, extra...), nil
}

// shape says how a group's sandbox differs from the usual one.
func (s *suite) shape(sc *scene, group string) (off confine.Walls, extra []string) {
	off = s.o.Off
	if name, only := strings.CutPrefix(group, onlyPrefix); only {
		if w, err := confine.ParseWall(name); err == nil {
			off |= allWalls &^ w
		}
	}
	if group == "missing" {
		extra = []string{filepath.Join(sc.dir, "does-not-exist")}
	}
	return off, extra
}
