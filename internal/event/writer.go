package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// MarshalJSON is the event as one OCSF object on one line, in which every
// character is printable: what is not stands as a \u escape.
func (e Event) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil) }

// AppendJSON appends what MarshalJSON returns to dst.
func (e Event) AppendJSON(dst []byte) ([]byte, error) {
	type plain Event // without this method
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode((*plain)(&e)); err != nil {
		return dst, fmt.Errorf("event: %w", err)
	}
	return appendPrintable(dst, bytes.TrimRight(b.Bytes(), "\n")), nil
}

// Writer appends events to a file, one JSON object a line. Each event is one
// write(2) when Write returns, so neither a crash nor SIGKILL loses one. Safe
// for concurrent use.
type Writer struct {
	mu      sync.Mutex
	file    *os.File
	name    string
	size    int64 // of the whole lines; -1 where the file cannot be cut
	line    []byte
	latched error
}

// ErrUnsafeFile is the error of OpenWriter for a file that somebody else could
// have put there.
var ErrUnsafeFile = errors.New("not a regular file of this user with one name")

// OpenWriter opens the file for appending and creates it with mode 0600. The
// file's last name may not be a symbolic link, and an existing file must be
// this user's own with a single name, else an agent of an earlier session
// could direct the log elsewhere: ErrUnsafeFile. Names below /dev are taken as
// they are.
func OpenWriter(name string) (*Writer, error) {
	flags := os.O_WRONLY | os.O_APPEND | os.O_CREATE
	device := len(name) > 5 && name[:5] == "/dev/"
	if !device {
		flags |= syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	}
	f, err := os.OpenFile(name, flags, 0o600)
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, fmt.Errorf("%s: %w", name, ErrUnsafeFile)
	case errors.As(err, &errno):
		return nil, fmt.Errorf("%s: %w", name, errno)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	w := &Writer{file: f, name: name, size: -1}
	if device {
		return w, nil
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || st.Nlink != 1 || int(st.Uid) != os.Geteuid() {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, ErrUnsafeFile)
	}
	w.size = info.Size()
	return w, nil
}

// Write appends e. The first error, such as a full disk, stays: every later
// call returns it too, and what a failed write left of a line is cut off.
func (w *Writer) Write(e Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.latched != nil {
		return w.latched
	}
	line, err := e.AppendJSON(w.line[:0])
	if err != nil {
		w.latched = err
		return err
	}
	w.line = append(line, '\n')
	n, err := w.file.Write(w.line)
	if err != nil {
		if n > 0 && w.size >= 0 {
			_ = w.file.Truncate(w.size) // the write's error is the one to tell
		}
		w.latched = fmt.Errorf("event: %w", err)
		return w.latched
	}
	if w.size >= 0 {
		w.size += int64(n)
	}
	return nil
}

// Err returns the error that Write latched, or nil.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latched
}

// Close closes the file and returns the latched error, if there is one.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.file.Close()
	if w.latched != nil {
		return w.latched
	}
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	return nil
}
