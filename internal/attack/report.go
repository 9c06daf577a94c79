package attack

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Report is the outcome of a run. Its JSON form is stable.
type Report struct {
	Mode    string          `json:"mode"`          // of the sandboxes
	Why     string          `json:"why,omitempty"` // it is that one, where nobody has named one
	Results []Result        `json:"results"`
	Counts  map[Verdict]int `json:"counts"`
}

func (r *Report) add(v Result) {
	if r.Counts == nil {
		r.Counts = map[Verdict]int{}
	}
	r.Results = append(r.Results, v)
	r.Counts[v.Verdict]++
}

// Red says whether anything escaped or proved nothing.
func (r *Report) Red() bool {
	for v := range r.Counts {
		if v.Red() {
			return true
		}
	}
	return false
}

// JSON writes the report for machines.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// Table writes the report for people: a line for each case, and what went wrong
// in full below it.
func (r *Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	category := Category("")
	for _, v := range r.Results {
		if v.Category != category {
			category = v.Category
			fmt.Fprintf(t, "%s\tverdict\tstopped by\terrno\n", strings.ToUpper(string(category)))
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", v.Case, v.Verdict, v.StoppedBy, v.Errno)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range r.Results {
		v.explain(w)
	}
	if r.Why != "" {
		fmt.Fprintf(w, "\n%s mode: %s\n", r.Mode, r.Why)
	}
	_, err := fmt.Fprintf(w, "\n%d cases in %s mode: %s\n", len(r.Results), r.Mode, r.summary())
	return err
}

// explain tells of a case that is not simply fine.
func (v Result) explain(w io.Writer) {
	if v.Verdict == Stopped || v.Verdict == Kept {
		return
	}
	fmt.Fprintf(w, "\n%s %s: %s\n", v.Verdict, v.Case, v.What)
	if v.Detail != "" {
		fmt.Fprintf(w, "    %s\n", v.Detail)
	}
	if !v.Verdict.Red() {
		return
	}
	for _, s := range v.Steps {
		if s.Verdict.Red() {
			fmt.Fprintf(w, "    step %s: %s %s (unsandboxed: %s) %s\n", s.Step, s.Verdict, s.Errno, s.Control, s.Detail)
		}
	}
}

func (r *Report) summary() string {
	var s []string
	for _, v := range []Verdict{Stopped, Kept, Open, Skipped, Escaped, Broken} {
		if n := r.Counts[v]; n > 0 || v == Escaped {
			s = append(s, fmt.Sprintf("%d %s", n, v))
		}
	}
	return strings.Join(s, ", ")
}

// List writes the table of cases without running any.
func List(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, c := range Cases() {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Name, c.Category, c.What)
	}
	return t.Flush()
}
