package pod

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"sallyport/internal/event"
	"sallyport/internal/supervisor"
)

// refusal is an error with the remedy for it, in one sentence.
type refusal struct {
	err  error
	hint string
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// Hint is the remedy, or empty.
func (r *refusal) Hint() string { return r.hint }

func refuse(hint, format string, args ...any) error {
	return &refusal{fmt.Errorf(format, args...), hint}
}

// status is the status to exit with after err.
func status(err error) int {
	var e *supervisor.ExitError
	if errors.As(err, &e) {
		return e.Status
	}
	return supervisor.ExitRefused
}

// maxReason is how much of a reason a kubelet shows: 2048 bytes for each
// container, from which a cut in the middle of a character is kept away.
const maxReason = 2000

// oneLine is err and its remedy on one line, for a place that shows one.
func oneLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	text := lines[0]
	if n := len(lines) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		text += "; " + h.Hint()
	}
	if text = visible(text); len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// tell puts the reason of a failure where people look for it: the log, in full,
// and the termination message, as one line. The second is shown by kubectl
// describe, and may be missing outside of a pod.
func tell(log io.Writer, termination string, err error) {
	text := err.Error()
	var d interface{ Detail() string }
	if errors.As(err, &d) {
		text = d.Detail() + "\n" + oneLine(err)
	} else {
		text = oneLine(err)
	}
	say(log, "%s", text)
	if termination == "" {
		return
	}
	// no O_CREATE: the kubelet has made it, or there is none
	f, openErr := os.OpenFile(termination, os.O_WRONLY|os.O_TRUNC, 0)
	if errors.Is(openErr, fs.ErrNotExist) {
		return
	}
	if openErr == nil {
		_, openErr = io.WriteString(f, "sallyport: "+oneLine(err)+"\n")
		openErr = errors.Join(openErr, f.Close())
	}
	if openErr != nil {
		say(log, "the reason could not be written to the termination message: %v", plain(openErr))
	}
}

// say writes a sentence to a person: each line of it behind the prefix, all at
// once, and nothing in it that a terminal would obey.
func say(w io.Writer, format string, args ...any) {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(fmt.Sprintf(format, args...), "\n")) {
		b.WriteString("sallyport: " + visible(strings.TrimRight(line, "\n")) + "\n")
	}
	io.WriteString(w, b.String())
}

// visible escapes what cannot be printed.
func visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\t' || strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		b.WriteString(event.Escape(string(r)))
	}
	return b.String()
}

// plain is "NAME: no such file or directory", without the system call.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}
