package pod

import (
	"os"
	"sync"

	"sallyport/internal/event"
)

// maxShown is how many kinds of denial one agent can put into the log.
const maxShown = 256

// log is what the supervisor writes: a line for people on standard error, for
// each kind of denial once, and every event as a JSON line where the
// configuration wants them.
type log struct {
	people *os.File
	lines  *os.File // nil: events are not written here
	failed func()   // called when an event cannot be written; may be called often

	mu     sync.Mutex
	seen   map[string]bool
	hidden int
	buf    []byte
	err    error
}

// event takes one event of the supervisor.
func (l *log) event(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines != nil {
		l.write(e)
	}
	if e.DispositionID != event.Blocked && e.ClassUID != event.DetectionFinding {
		return
	}
	id := e.Metadata.UID
	e.Metadata.UID = "" // there is no journal in a pod that a command could look into
	line := e.Line()
	if l.seen[line] || len(l.seen) >= maxShown {
		l.hidden++
		return
	}
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	l.seen[line] = true
	if id != "" {
		line += "   id " + id // which the agent was told too
	}
	say(l.people, "%s", line)
}

// write appends one line with one write, so that lines of two writers do not
// mix. What happens unseen is not held: an error ends the sandbox.
func (l *log) write(e event.Event) {
	if l.err != nil {
		return
	}
	if l.buf, l.err = e.AppendJSON(l.buf[:0]); l.err == nil {
		_, l.err = l.lines.Write(append(l.buf, '\n'))
	}
	if l.err != nil {
		l.failed()
	}
}

// close says how much was not shown, and returns the error of the JSON lines.
func (l *log) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hidden > 0 {
		say(l.people, "%d more denials of the kinds above", l.hidden)
	}
	return l.err
}
