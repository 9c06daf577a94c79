package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/term"

	"sallyport/internal/event"
)

// Bounds of what a session shows: an agent in a loop must not fill a terminal
// or a disk.
const (
	maxShown   = 256     // different denials of one session
	maxJournal = 1 << 20 // bytes of the journal before a session starts it anew
)

// personOn is where a person reads: w, with line ends that also hold while the
// agent has the terminal in raw mode.
func personOn(w *os.File) io.Writer {
	if term.IsTerminal(int(w.Fd())) {
		return rawLines{w}
	}
	return w
}

type rawLines struct{ w io.Writer }

func (r rawLines) Write(p []byte) (int, error) {
	if _, err := r.w.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// denials shows each kind of denial once and keeps it in the journal, from
// which `policy explain` answers.
type denials struct {
	out     io.Writer
	mu      sync.Mutex
	journal *event.Writer // nil: ids cannot be looked up and are not shown
	seen    map[string]bool
	hidden  int
}

// newDenials opens the journal at path, if there is one. A journal that the
// agent could write is none: it may not lie below a directory that it may write.
func newDenials(out io.Writer, path string, writable ...string) *denials {
	d := &denials{out: out, seen: make(map[string]bool)}
	if path == "" || slices.ContainsFunc(writable, func(dir string) bool { return below(path, dir) }) {
		return d
	}
	if os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return d
	}
	if info, err := os.Lstat(path); err == nil && info.Size() > maxJournal {
		if os.Rename(path, path+".old") != nil {
			return d
		}
	}
	if w, err := event.OpenWriter(path); err == nil {
		d.journal = w
	}
	return d
}

// below tells whether path lies in dir or, with dir empty, in the current
// directory.
func below(path, dir string) bool {
	if dir == "" {
		dir = "."
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return true
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	rel, err := filepath.Rel(abs, path)
	return err != nil || rel != ".." && !strings.HasPrefix(rel, "../")
}

// event shows e if it is a denial or a finding.
func (d *denials) event(e event.Event) {
	if e.DispositionID != event.Blocked && e.ClassUID != event.DetectionFinding {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	kind := e
	kind.Metadata.UID = ""
	key := kind.Line()
	if d.seen[key] {
		d.hidden++
		return
	}
	if len(d.seen) >= maxShown {
		d.hidden++
		return
	}
	d.seen[key] = true
	if d.journal == nil || d.journal.Write(e) != nil {
		e = kind
	}
	sayf(d.out, "%s", e.Line())
}

// close says how much was not shown.
func (d *denials) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hidden > 0 {
		sayf(d.out, "%d more denials of the kinds above; --events FILE records each", d.hidden)
	}
	if d.journal != nil {
		d.journal.Close()
	}
}

// journalPath is where the denials of this user's sessions are kept; empty
// without a home.
func journalPath(getenv func(string) string) string {
	dir := stateDir(getenv)
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "denials.jsonl")
}

// stateDir is sallyport's own, after the XDG base directory specification; empty
// without a home.
func stateDir(getenv func(string) string) string {
	dir := getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home := getenv("HOME")
		if !filepath.IsAbs(home) {
			return ""
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "sallyport")
}
