package attack

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verdict is how a case ended.
type Verdict string

// The verdicts. Escaped and Broken make the suite red.
const (
	Stopped Verdict = "stopped"
	Kept    Verdict = "kept"    // a property that had to hold did
	Escaped Verdict = "ESCAPED" // the attack did what it tried
	Open    Verdict = "open"    // it works, and the documentation says so
	Skipped Verdict = "skipped" // this kernel does not have what is attacked
	Broken  Verdict = "BROKEN"  // the case proves nothing: its control or its twin failed
)

// Red says whether the verdict fails the suite.
func (v Verdict) Red() bool { return v == Escaped || v == Broken }

// The states of a step, as the attack reports them.
const (
	stateDone    = "done"    // what was tried worked
	stateRefused = "refused" // it did not; Errno says how
	stateAbsent  = "absent"  // this host has nothing to try it on
	stateBroken  = "broken"  // the attempt could not be made
)

// step is one thing that a case tried, as told by the attack.
type step struct {
	Name   string
	State  string
	Probe  bool // shows only whether the kernel's own check is reached
	Errno  string
	Detail string
}

// side is all that is known of a case from one of its two runs.
type side struct {
	ran      bool
	steps    []step
	seen     []string // what the outside saw of it
	problem  string   // why the run says nothing
	twin     string   // why the twin failed; empty if it did not
	finished bool
	took     time.Duration
}

// Result is what is known of a case in the end. Its JSON form is stable.
type Result struct {
	Case      string       `json:"case"`
	Category  Category     `json:"category"`
	What      string       `json:"what"`
	Verdict   Verdict      `json:"verdict"`
	StoppedBy string       `json:"stopped_by,omitempty"` // walls, in the order of the steps
	Errno     string       `json:"errno,omitempty"`
	Detail    string       `json:"detail,omitempty"`
	Millis    int64        `json:"milliseconds"` // inside
	Steps     []StepResult `json:"steps,omitempty"`
}

// StepResult is one attempt of a case.
type StepResult struct {
	Step      string  `json:"step"`
	Verdict   Verdict `json:"verdict"`
	StoppedBy Wall    `json:"stopped_by,omitempty"`
	Errno     string  `json:"errno,omitempty"`
	Control   string  `json:"control"` // what the same attempt did unsandboxed
	Detail    string  `json:"detail,omitempty"`
}

// judge compares the two sides of a case. It is pure.
func judge(c Case, out, in side) Result {
	r := Result{Case: c.Name, Category: c.Category, What: c.What, Millis: in.took.Milliseconds()}
	switch {
	case !in.ran:
		return r.broken(firstOf(in.problem, "the case did not run inside"))
	case !out.ran && c.control != noControl:
		return r.broken("control: " + firstOf(out.problem, "did not run"))
	case in.problem != "":
		r = r.broken("inside: " + in.problem)
	case out.problem != "" && c.control != noControl:
		r = r.broken("control: " + out.problem)
	case len(in.steps) == 0:
		r = r.broken("nothing was tried")
	default:
		r = r.collect(c, out, in)
	}
	if in.twin != "" && !r.Verdict.Red() {
		r = r.broken("allowed twin: " + in.twin)
	}
	if c.open != "" && r.Verdict == Escaped {
		r.Verdict, r.Detail = Open, c.open
		return r
	}
	if len(in.seen) > 0 {
		r.Verdict, r.StoppedBy, r.Errno = Escaped, "", ""
		r.Detail = "seen outside: " + strings.Join(in.seen, ", ")
	}
	return r
}

func (r Result) broken(why string) Result {
	r.Verdict, r.Detail = Broken, why
	return r
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// collect judges the steps and sums them up: the worst verdict counts, and a
// case is skipped only when every step is.
func (r Result) collect(c Case, out, in side) Result {
	rank := map[Verdict]int{Skipped: 0, Stopped: 1, Kept: 1, Broken: 2, Escaped: 3}
	r.Verdict = Skipped
	var walls, errnos, words []string
	for _, s := range in.steps {
		sr := judgeStep(c, find(out.steps, s.Name), s)
		r.Steps = append(r.Steps, sr)
		if rank[sr.Verdict] > rank[r.Verdict] {
			r.Verdict, words = sr.Verdict, nil
		}
		if sr.Verdict == r.Verdict && sr.Verdict != Stopped {
			word := strings.TrimSuffix(s.Name+": "+sr.Detail, ": ")
			if sr.Verdict == Skipped {
				word = sr.Detail
			}
			words = addOnce(words, word)
		}
		if sr.Verdict == Stopped {
			walls, errnos = addOnce(walls, string(sr.StoppedBy)), addOnce(errnos, sr.Errno)
		}
	}
	for _, s := range out.steps {
		if find(in.steps, s.Name) == nil && c.control != noControl {
			return r.broken("step " + s.Name + " was not tried inside")
		}
	}
	if r.Verdict == Stopped {
		r.StoppedBy, r.Errno = strings.Join(walls, ", "), strings.Join(errnos, ", ")
		for _, s := range in.steps {
			if s.Detail != "" && s.State == stateRefused {
				words = addOnce(words, s.Detail)
			}
		}
	}
	r.Detail = shorten(words)
	return r
}

// shorten keeps a detail readable: three words of several, and how many more.
func shorten(words []string) string {
	if len(words) > 3 {
		return strings.Join(words[:3], "; ") + fmt.Sprintf("; and %d more", len(words)-3)
	}
	return strings.Join(words, "; ")
}

func addOnce(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func find(steps []step, name string) *step {
	for i := range steps {
		if steps[i].Name == name {
			return &steps[i]
		}
	}
	return nil
}

// judgeStep compares one attempt inside with the same attempt unsandboxed.
func judgeStep(c Case, out *step, in step) StepResult {
	r := StepResult{Step: in.Name, Errno: in.Errno, Detail: in.Detail, Control: "none"}
	if out != nil {
		r.Control = strings.TrimSpace(out.State + " " + out.Errno)
	} else if c.control != noControl {
		return r.end(Broken, "control did not try it")
	}
	switch {
	case in.State == stateBroken:
		return r.end(Broken, in.Detail)
	case c.control == mustKeep:
		return r.keep(out, in)
	case in.State == stateDone:
		return r.end(Escaped, in.Detail)
	case in.State == stateAbsent:
		return r.end(Skipped, in.Detail)
	case out == nil:
		return r.stopped(c, in)
	}
	switch {
	case out.State == stateAbsent:
		return r.end(Skipped, out.Detail)
	case in.Probe:
		return r.probe(c, out, in)
	case out.State == stateDone:
		return r.stopped(c, in)
	case slices.Contains(c.held, out.Errno):
		r.StoppedBy = WallHost
		return r.end(Stopped, "this host refuses it to everybody: "+out.Errno)
	}
	return r.end(Broken, strings.TrimSpace("control: "+out.State+" "+out.Errno+" "+out.Detail))
}

func (r StepResult) end(v Verdict, detail string) StepResult {
	r.Verdict, r.Detail = v, detail
	return r
}

func (r StepResult) keep(out *step, in step) StepResult {
	if out.State != stateDone {
		return r.end(Broken, strings.TrimSpace("control: "+out.State+" "+out.Errno+" "+out.Detail))
	}
	if in.State != stateDone {
		return r.end(Escaped, strings.TrimSpace("lost inside: "+in.Errno+" "+in.Detail))
	}
	return r.end(Kept, in.Detail)
}

// stopped wants the errno of one of the walls that the case names: a refusal
// for some other reason shows that the attack has a fault, not that it failed.
func (r StepResult) stopped(c Case, in step) StepResult {
	w, known := c.stoppedBy(in.Errno)
	if !known {
		return r.end(Broken, fmt.Sprintf("%s is the answer of no wall of this case %s", in.Errno, in.Detail))
	}
	r.StoppedBy = w
	return r.end(Stopped, in.Detail)
}

// probe judges an attempt that an unprivileged process cannot complete
// anywhere: it must not get as far as the kernel's own answer.
func (r StepResult) probe(c Case, out *step, in step) StepResult {
	w, known := c.stoppedBy(in.Errno)
	switch {
	case out.Errno == "ENOSYS":
		return r.end(Skipped, "this kernel does not have the call")
	case known && in.Errno == out.Errno:
		r.StoppedBy = WallPrivilege
		return r.end(Stopped, in.Detail)
	case known:
		r.StoppedBy = w
		return r.end(Stopped, in.Detail)
	}
	return r.end(Escaped, "the call reaches the kernel: "+in.Errno)
}
