package modes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"sallyport/internal/attack"
	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

// cells are the columns of the table: each mode, started by each user. The one
// that is missing is refused: see TestRefusals/no_capability.
var cells = []struct {
	mode policy.Mode
	by   who
}{
	{policy.Platform, root}, {policy.Platform, nobody},
	{policy.Namespace, root},
	{policy.UserNS, root}, {policy.UserNS, nobody},
}

// differs are the cases whose verdict is not the same in every cell, and why.
var differs = map[string]string{}

// suiteRaces is small, and the flood of calls with it: the suite has tests of its
// own, which run both in full.
const suiteRaces = 300

// TestAttackSuite runs the whole suite in every cell: the verdicts are the same,
// and nothing escapes. One cell after the other: the floods of the suite use up
// limits that belong to the agent's user, such as fs.epoll.max_user_watches. The
// cells of one user share their controls, which no mode is of.
func TestAttackSuite(t *testing.T) {
	testkit.Require(t, testkit.Root())
	b := newBench(t)
	if err := os.Chmod(b.dir, 0o1777); err != nil { // the suite makes its own directory there
		t.Fatal(err)
	}
	reports := make([]*attack.Report, len(cells))
	for _, by := range []who{root, nobody} {
		var its []int
		for i, c := range cells {
			if c.by == by {
				its = append(its, i)
			}
		}
		for n, r := range runSuite(t, b, by, its) {
			reports[its[n]] = r
			t.Run(r.Mode+"/"+by.name, func(t *testing.T) {
				if r.Red() || len(r.Results) == 0 || r.Mode != cells[its[n]].mode.String() {
					r.Table(t.Output())
					t.Error("red")
				}
			})
		}
	}
	if t.Failed() {
		return
	}
	verdicts := byCase(reports)
	for name, row := range verdicts {
		first := attack.Verdict("")
		for i, v := range row {
			switch {
			case v == attack.Skipped:
			case first == "":
				first = v
			case v != first && differs[name] == "":
				t.Errorf("%s: %s in %v by %s, %s before; want the same or a reason in differs", name, v, cells[i].mode, cells[i].by.name, first)
			}
		}
	}
	if len(verdicts) < 100 {
		t.Errorf("%d cases, want all of them", len(verdicts))
	}
	checkTable(t, "TestAttackSuite", suiteTable(verdicts), suiteRowMatches)
}

func byCase(reports []*attack.Report) map[string][]attack.Verdict {
	out := map[string][]attack.Verdict{}
	for i, r := range reports {
		for _, v := range r.Results {
			if out[v.Case] == nil {
				out[v.Case] = make([]attack.Verdict, len(reports))
			}
			out[v.Case][i] = v.Verdict
		}
	}
	return out
}

// runSuite runs the suite as one user, in the mode of each of its cells.
func runSuite(t *testing.T, b *bench, by who, its []int) (reports []*attack.Report) {
	t.Helper()
	var in []string
	for _, i := range its {
		in = append(in, cells[i].mode.String())
	}
	c := exec.CommandContext(t.Context(), b.exe)
	c.Env = append(os.Environ(), suiteVar+"="+strings.Join(in, " "), "TMPDIR="+b.dir)
	if by.as != nil {
		c.Env = append(c.Env, suiteAsNobody+"=1")
	}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	c.Dir = "/"
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	if err := json.Unmarshal(out.Bytes(), &reports); err != nil || len(reports) != len(its) {
		t.Fatalf("%d reports, want %d: %v: %s", len(reports), len(its), err, out.String())
	}
	return reports
}

const suiteAsNobody = "MODES_SUITE_AS_NOBODY"

// beSuite runs the attack suite in some modes and prints its reports as JSON. It is
// alone in a network namespace, which it furnishes first, while it is root.
func beSuite(words string) int {
	if os.Getenv(suiteAsNobody) != "" && os.Getuid() == 0 {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		c := exec.Command("/proc/self/exe")
		c.Args[0], c.Path = os.Args[0], "/proc/self/exe"
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Credential: nobody.as, Pdeathsig: syscall.SIGKILL}
		if err := c.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	if os.Getuid() == 0 {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	os.Unsetenv(suiteVar)
	var in []policy.Mode
	for word := range strings.FieldsSeq(words) {
		in = append(in, modes[slices.IndexFunc(modes, func(m policy.Mode) bool { return m.String() == word })])
	}
	reports, err := attack.RunModes(context.Background(), attack.Options{Races: suiteRaces}, in...)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(reports)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// furnish raises the loopback interface and another one with an address, so that
// this host has an address of its own.
func furnish() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "own0"
	own := netlink.NewVeth(attrs)
	own.PeerName = "own1"
	if err := netlink.LinkAdd(own); err != nil {
		return err
	}
	a, err := netlink.ParseAddr(far + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(own, a); err != nil {
		return err
	}
	for _, l := range []netlink.Link{lo, own} {
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	return nil
}
