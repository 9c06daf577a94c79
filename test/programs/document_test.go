package programs

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/programs.md from what was seen")

// updateVar hands the flag to the subprocess in which a scene lives.
const updateVar = "SALLYPORT_TEST_UPDATE"

const page = "../../docs/programs.md"

// A table of the page stands between two comments with its name.
func replaceTable(t *testing.T, name, rows string) {
	t.Helper()
	b, err := os.ReadFile(page)
	fatal(t, err)
	begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->"
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table %s", page, name)
	}
	fatal(t, os.WriteFile(page, []byte(before+begin+rows+end+after), 0o644))
}

// compareTable looks whether the page has this table, or writes it.
func compareTable(t *testing.T, name, rows string) {
	t.Helper()
	if os.Getenv(updateVar) != "" && !t.Failed() {
		replaceTable(t, name, rows)
	}
	b, err := os.ReadFile(page)
	fatal(t, err)
	if !strings.Contains(string(b), "<!-- "+name+": begin -->\n"+rows+"<!--") {
		t.Errorf("%s has another table of %s: run the test with -update", page, name)
	}
}

// document writes the table of programs, or looks whether the page has a row
// for each: the words of a program change with its version, its name does not.
func document(t *testing.T, rows []row) {
	t.Helper()
	if os.Getenv(updateVar) != "" {
		if t.Failed() {
			t.Fatal("the table is written from a run that passes")
		}
		replaceTable(t, "programs", table(t, rows))
		return
	}
	b, err := os.ReadFile(page)
	fatal(t, err)
	for _, r := range rows {
		if !strings.Contains(string(b), "\n| "+r.name+" |") {
			t.Errorf("%s has no row for %q: run the test with -update", page, r.name)
		}
	}
}

func table(t *testing.T, rows []row) string {
	var b strings.Builder
	b.WriteString("| program | with the proxy variables: allowed, denied | without any: allowed, denied |\n|---|---|---|\n")
	for _, r := range rows {
		if r.skipped {
			t.Fatalf("%s was skipped, so its row cannot be written", r.name)
		}
		b.WriteString("| " + r.name + " | " + cell(r.ways == captured, r.proxyDenied) + " | " + cell(r.ways == proxied, r.nameDenied) + " |\n")
	}
	return b.String()
}

func cell(none bool, denied string) string {
	if none {
		return "–"
	}
	return "reached; `" + plain(denied) + "`"
}

// changing are the parts of a message that are another in each run.
var changing = regexp.MustCompile(`/tmp/testkit-[^ :"]*/|\d{4}-\d\d-\d\d[ T][0-9:]+|127\.0\.0\.1:\d+`)

func plain(s string) string {
	s = changing.ReplaceAllString(strings.TrimSpace(s), "…")
	s = strings.NewReplacer("`", "'", "|", `\|`).Replace(s)
	return s
}
