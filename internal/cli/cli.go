package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/internal/event"
)

// Exit statuses that are ours; every other status is the agent's.
const (
	exitFailure  = 1   // a check found something, a command could not do its work
	exitUsage    = 2   // the command line makes no sense
	exitRefused  = 125 // run: nothing was started, the sentence on stderr says why
	prefix       = "sallyport: "
	usageHintFmt = "'%s --help' shows the usage"
)

// Main runs the command line in args, whose first element is the program's own
// name, and returns the status to exit with. It never calls os.Exit.
func Main(args ...string) int {
	return Run(context.Background(), Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, args[1:])
}

// Streams are the three files that a command reads and writes. They are
// borrowed: nothing here closes them.
type Streams struct{ In, Out, Err *os.File }

// Run is Main with the streams and the context handed in.
func Run(ctx context.Context, s Streams, args []string) int {
	root := newRoot(s)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	return report(s.Err, cmd, err)
}

// statusError carries the status to exit with. An err of nil means that
// everything worth saying has been said.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// hinter is an error that knows its remedy.
type hinter interface{ Hint() string }

// report says what went wrong, line by line behind the prefix, and returns the
// status that belongs to it.
func report(w io.Writer, cmd *cobra.Command, err error) int {
	var status *statusError
	if errors.As(err, &status) {
		if status.err != nil {
			say(w, status.err)
		}
		return status.status
	}
	var usage *usageError
	if errors.As(err, &usage) || isCobraUsage(err) {
		say(w, err)
		sayf(w, usageHintFmt, cmd.CommandPath())
		if cmd.Annotations[refusesWith125] != "" {
			return exitRefused
		}
		return exitUsage
	}
	say(w, err)
	if cmd.Annotations[refusesWith125] != "" {
		return exitRefused
	}
	return exitFailure
}

// refusesWith125 marks a command whose own failures must not be confused with
// the status of the program that it runs.
const refusesWith125 = "refuses-with-125"

// isCobraUsage tells whether err is cobra's own complaint about an unknown
// command, which it builds without a type.
func isCobraUsage(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command ")
}

// detailer is an error that has more to show than its text, such as the place
// in a file with a caret below it.
type detailer interface{ Detail() string }

// say tells a person about an error: its text, or its detail where it has one,
// and its remedy.
func say(w io.Writer, err error) {
	text := err.Error()
	var d detailer
	if errors.As(err, &d) {
		text = d.Detail()
	}
	sayf(w, "%s", text)
	var h hinter
	if errors.As(err, &h) && h.Hint() != "" {
		sayf(w, "hint: %s", h.Hint())
	}
}

// sayf writes a sentence to a person: every line of it behind the prefix, all
// at once, and nothing in it that a terminal would obey.
func sayf(w io.Writer, format string, args ...any) {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(fmt.Sprintf(format, args...), "\n")) {
		b.WriteString(prefix)
		b.WriteString(visible(strings.TrimRight(line, "\n")))
		b.WriteByte('\n')
	}
	io.WriteString(w, b.String())
}

// visible escapes what cannot be printed and leaves the rest, backslashes too.
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
