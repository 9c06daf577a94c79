package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The exit statuses of `run` that are not the agent's, as env(1), timeout(1)
// and the shells use them.
const (
	ExitRefused    = 125 // sallyport refused or failed
	ExitCannotExec = 126 // the command was found but cannot be executed
	ExitNotFound   = 127 // the command was not found
)

// ExitError is a failure of Run with the status that the program should exit with.
type ExitError struct {
	Status int
	Err    error
	hint   string
}

func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// Hint is a remedy in one sentence, or empty.
func (e *ExitError) Hint() string { return e.hint }

func refused(hint, format string, args ...any) error {
	return &ExitError{ExitRefused, fmt.Errorf(format, args...), hint}
}

// findCommand resolves a command name as execvp does, in the agent's PATH and
// from its working directory.
func findCommand(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		p := name
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		return p, executable(p, name)
	}
	pathVar := "/usr/local/bin:/usr/bin:/bin"
	for _, kv := range env {
		if v, is := strings.CutPrefix(kv, "PATH="); is {
			pathVar = v
		}
	}
	var last error
	for d := range strings.SplitSeq(pathVar, ":") {
		if !filepath.IsAbs(d) {
			continue // a relative entry would make the workspace a place for commands
		}
		p := filepath.Join(d, name)
		err := executable(p, name)
		if err == nil {
			return p, nil
		}
		var e *ExitError
		if errors.As(err, &e) && e.Status == ExitCannotExec && !errors.Is(err, fs.ErrPermission) {
			last = err
		}
	}
	if last != nil {
		return "", last
	}
	return "", &ExitError{ExitNotFound, fmt.Errorf("%s: command not found in PATH", name), ""}
}

func executable(p, name string) error {
	st, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &ExitError{ExitNotFound, fmt.Errorf("%s: command not found", name), ""}
	case err != nil:
		return &ExitError{ExitCannotExec, fmt.Errorf("%s: %w", name, err), ""}
	case st.IsDir():
		return &ExitError{ExitCannotExec, fmt.Errorf("%s: is a directory", name), ""}
	case st.Mode()&0o111 == 0:
		return &ExitError{ExitCannotExec, fmt.Errorf("%s: not executable", name), "chmod +x it, or run it through its interpreter"}
	}
	return nil
}
