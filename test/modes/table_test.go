package modes

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sallyport/internal/attack"
)

// The tables of docs/modes.md stand between a pair of marks each.
const page0 = "../../docs/modes.md"

func marks(name string) (begin, end string) {
	return "<!-- begin " + name + " -->\n", "<!-- end " + name + " -->\n"
}

// checkTable compares a table with the one in the page, line by line, or writes
// it there.
func checkTable(t *testing.T, name, want string, same func(want, got string) bool) {
	t.Helper()
	b, err := os.ReadFile(page0)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := marks(name)
	head, rest, ok1 := strings.Cut(string(b), begin)
	got, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table %s", page0, name)
	}
	if *update {
		if err := os.WriteFile(page0, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	rows := map[string]string{}
	for line := range strings.Lines(got) {
		rows[rowName(line)] = line
	}
	for line := range strings.Lines(want) {
		has, is := rows[rowName(line)]
		switch {
		case !is:
			t.Logf("%s lacks the row %s; run go test ./test/modes -run %s -update", page0, rowName(line), name)
		case !same(line, has):
			t.Errorf("%s: %s says\n\t%s\nwant\n\t%s", page0, name, has, line)
		}
		delete(rows, rowName(line))
	}
	for row := range rows {
		t.Errorf("%s: %s has the row %s, which is no test", page0, name, row)
	}
}

// rowName is the first cell of a row.
func rowName(line string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
	return name
}

func equal(want, got string) bool { return want == got }

// suiteRowMatches lets a row of the page say what another host could try and
// this one could not, and the other way round.
func suiteRowMatches(want, got string) bool {
	w, g := strings.Split(want, "|"), strings.Split(got, "|")
	if len(w) != len(g) {
		return false
	}
	for i := range w {
		a, b := strings.TrimSpace(w[i]), strings.TrimSpace(g[i])
		if a != b && a != string(attack.Skipped) && b != string(attack.Skipped) {
			return false
		}
	}
	return true
}

func suiteTable(verdicts map[string][]attack.Verdict) string {
	var b strings.Builder
	b.WriteString("| case |")
	for _, c := range cells {
		fmt.Fprintf(&b, " %v, %s |", c.mode, c.by.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(cells)) + "\n")
	for _, c := range attack.Cases() {
		row, is := verdicts[c.Name]
		if !is {
			continue
		}
		fmt.Fprintf(&b, "| `%s` |", c.Name)
		for _, v := range row {
			fmt.Fprintf(&b, " %s |", v)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestParityTable holds the page to the rows of TestParity.
func TestParityTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("| test | attack | platform | namespace | userns |\n|---|---|---|---|---|\n")
	for _, a := range attacks {
		fmt.Fprintf(&b, "| `TestParity/*/%s` | %s |", a.name, a.what)
		for _, m := range modes {
			h := a.by[m]
			if h.first == h.last {
				fmt.Fprintf(&b, " %s |", h.first)
			} else {
				fmt.Fprintf(&b, " %s. Alone: %s |", h.first, h.last)
			}
		}
		b.WriteString("\n")
	}
	checkTable(t, "TestParity", b.String(), equal)
}

// TestWorkloadsTable holds the page to the rows of TestWorkloads.
func TestWorkloadsTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("| test | what works |\n|---|---|\n")
	for _, w := range workloads {
		fmt.Fprintf(&b, "| `TestWorkloads/*/%s` | %s |\n", w.name, w.what)
	}
	for _, w := range [][2]string{{"published_server", "a program of the host connects to a port that the policy publishes"}, {"exit_status", "the agent's exit status and signal come through"}} {
		fmt.Fprintf(&b, "| `TestWorkloads/*/%s` | %s |\n", w[0], w[1])
	}
	checkTable(t, "TestWorkloads", b.String(), equal)
}

// TestRefusalsTable holds the page to the rows of TestRefusals.
func TestRefusalsTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("| test | mode | started by | said |\n|---|---|---|---|\n")
	for _, r := range refusals {
		fmt.Fprintf(&b, "| `TestRefusals/%s` | %v | %s | … %s … |\n", r.name, r.mode, r.by.name, r.say)
	}
	checkTable(t, "TestRefusals", b.String(), equal)
}
