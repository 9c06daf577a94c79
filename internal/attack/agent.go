package attack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// agent is an attack at work: the process that runs one case.
type agent struct {
	Spec
	name  string
	out   io.Writer
	heap  heap
	skip  int       // steps that have been tried by a process that they killed
	count io.Writer // gets a byte for each step
}

// line is what an attack writes to standard output, one JSON object each.
type line struct {
	Case   string `json:"case"`
	Step   string `json:"step,omitempty"`
	State  string `json:"state"`
	Probe  bool   `json:"probe,omitempty"`
	Errno  string `json:"errno,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// The states of a line beyond those of a step.
const (
	lineBegin  = "begin"  // a case starts
	lineTrying = "trying" // a step starts: what is left of one that kills its process
	lineTell   = "tell"   // the attack wants something done outside
	lineEnd    = "end"    // the case is over; Errno is the signal that ended it
	lineTwin   = "twin"   // a twin's result, in Errno and Detail
)

func (a *agent) say(l line) {
	l.Case = a.name
	b, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	a.out.Write(append(b, '\n')) // one write: lines of several processes do not mix
}

// refusal is a refusal that is not an errno.
type refusal struct{ word, detail string }

func (r *refusal) Error() string { return r.word + " " + r.detail }

// absent says that this host has nothing to try a step on.
type absent struct{ why string }

func (e *absent) Error() string { return e.why }

// found is success with a word on what was found.
type found struct{ what string }

func (e *found) Error() string { return e.what }

func foundf(format string, args ...any) error { return &found{fmt.Sprintf(format, args...)} }

// fault says that an attempt could not be made.
type fault struct{ err error }

func (e *fault) Error() string { return e.err.Error() }

func faultf(format string, args ...any) error { return &fault{fmt.Errorf(format, args...)} }

// The words of refusals that are not an errno.
const (
	wordCaptured = "captured"   // connected, but not to what was asked for
	wordSilent   = "no-answer"  // accepted and never delivered
	wordNothing  = "not-there"  // there is nothing to take
	wordKilled   = "killed-"    // and the name of a signal
	wordHTTP     = "http-"      // and the status
	wordClosed   = "closed"     // the proxy closed the connection
	wordHarmless = "harmless"   // it worked, on something else than was meant
	wordLoopback = "loopback"   // a server came to listen on loopback only
	wordOther    = "other-kind" // a socket of another kind came back
)

// try makes one attempt. nil from f means that the forbidden thing happened.
func (a *agent) try(name string, f func() error) { a.attempt(name, false, f) }

// probe makes one attempt that the kernel refuses to the unprivileged anyway;
// only how it refuses is of interest.
func (a *agent) probe(name string, f func() error) { a.attempt(name, true, f) }

func (a *agent) attempt(name string, probe bool, f func() error) {
	if a.skip > 0 {
		a.skip--
		return
	}
	a.count.Write([]byte{'.'})
	a.say(line{Step: name, State: lineTrying, Probe: probe})
	l := line{Step: name, State: stateDone, Probe: probe}
	err := f()
	var (
		word  *refusal
		none  *absent
		what  *found
		bad   *fault
		errno unix.Errno
	)
	switch {
	case err == nil:
	case errors.As(err, &what):
		l.Detail = what.what
	case errors.As(err, &none):
		l.State, l.Detail = stateAbsent, none.why
	case errors.As(err, &bad):
		l.State, l.Detail = stateBroken, bad.Error()
	case errors.As(err, &word):
		l.State, l.Errno, l.Detail = stateRefused, word.word, word.detail
	case errors.As(err, &errno):
		l.State, l.Errno = stateRefused, errnoName(errno)
	default:
		l.State, l.Detail = stateBroken, err.Error()
	}
	a.say(l)
}

func errnoName(e unix.Errno) string {
	if e == unix.EOPNOTSUPP {
		return "EOPNOTSUPP" // has a second name, ENOTSUP
	}
	if n := unix.ErrnoName(e); n != "" {
		return n
	}
	return fmt.Sprintf("errno-%d", int(e))
}

// answerLimit is how long an answer that has to come is waited for. A host that is
// overloaded makes nothing of a case red.
const answerLimit = 30 * time.Second

// patient is how long the attack waits for an answer from a forbidden server.
// Unsandboxed it must come; inside, the server's own view decides.
func (a *agent) patient() time.Duration {
	if a.Inside {
		return 120 * time.Millisecond
	}
	return answerLimit
}

// mark is what the attack sends, so that a server can tell who came.
func (a *agent) mark(step string) string { return a.Token + " " + a.name + "/" + step }

// own is a path in the case's own directory outside of the grants.
func (a *agent) own(parts ...string) string {
	return filepath.Join(append([]string{a.Outside, a.name}, parts...)...)
}

// work is a path in a directory of the case below the working directory.
func (a *agent) work(parts ...string) string {
	dir := filepath.Join(a.Workdir, a.name)
	os.MkdirAll(dir, 0o755)
	return filepath.Join(append([]string{dir}, parts...)...)
}

// tell asks the suite to do something outside, and waits for its answer.
func (a *agent) tell(what string) (string, error) {
	a.say(line{State: lineTell, Detail: what})
	b, err := os.ReadFile(filepath.Join(a.Workdir, rendezvous(a.name)))
	if err != nil {
		return "", faultf("rendezvous: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// rendezvous is the FIFO by which the suite answers.
func rendezvous(name string) string { return "answer-" + name }
