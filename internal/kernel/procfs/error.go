package procfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrMalformed says that a file under /proc did not have the form that
// proc(5) describes. It is never an answer about a process.
var ErrMalformed = errors.New("procfs: malformed answer from the kernel")

// fault adds the file's name to an error of the kernel.
func fault(p *name, err error) error {
	return fmt.Errorf("procfs: %s: %w", p.String(), err)
}

// Gone reports whether err means that the process or thread no longer exists.
func Gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
}
