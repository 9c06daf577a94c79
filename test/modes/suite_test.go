package modes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
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
// limits that belong to the agent's user, such as fs.epoll.max_user_watches.
func TestAttackSuite(t *testing.T) {
	testkit.Require(t, testkit.Root())
	b := newBench(t)
	if err := os.Chmod(b.dir, 0o1777); err != nil { // the suite makes its own directory there
		t.Fatal(err)
	}
	reports := make([]*attack.Report, len(cells))
	t.Run("cells", func(t *testing.T) {
		for i, c := range cells {
			t.Run(c.mode.String()+"/"+c.by.name, func(t *testing.T) {
				reports[i] = runSuite(t, b, c.mode, c.by)
			})
		}
	})
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

func runSuite(t *testing.T, b *bench, mode policy.Mode, by who) *attack.Report {
	t.Helper()
	c := exec.CommandContext(t.Context(), b.exe)
	c.Env = append(os.Environ(), suiteVar+"="+mode.String(), "TMPDIR="+b.dir)
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
	r := &attack.Report{}
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if r.Red() || len(r.Results) == 0 {
		var text strings.Builder
		r.Table(&text)
		t.Errorf("red:\n%s", text.String())
	}
	return r
}

const suiteAsNobody = "MODES_SUITE_AS_NOBODY"

// beSuite runs the attack suite in a mode and prints its report as JSON. It is
// alone in a network namespace, which it furnishes first, while it is root.
func beSuite(mode string) int {
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
	m := policy.Platform
	for _, x := range modes {
		if x.String() == mode {
			m = x
		}
	}
	r, err := attack.Run(context.Background(), attack.Options{Mode: m, Races: suiteRaces})
	if err == nil {
		err = r.JSON(os.Stdout)
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
