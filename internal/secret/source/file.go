package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"sallyport/internal/secret"
)

// File is the content of a file without the end of its last line. It is read
// again when the file has changed, or another has taken its place. One that was
// read by a caller who has given up the right to it since stays what it was.
func File(path string, now func() time.Time) *Source {
	s := Func("file "+path, func(context.Context) ([]byte, error) { return readFile(path) }, 0, now)
	last := ""
	s.mark = func() (string, error) {
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrPermission) && last != "" {
			return last, nil
		}
		if err != nil {
			return "", plain(err)
		}
		last = markOf(st)
		return last, nil
	}
	return s
}

func markOf(st fs.FileInfo) string {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Sprint(st.Size(), st.ModTime().UnixNano())
	}
	return fmt.Sprint(sys.Dev, sys.Ino, sys.Size, sys.Mtim, sys.Ctim)
}

// readFile takes regular files only: anything else could block, or have no end.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, plain(err)
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	return readAll(f)
}

// readAll reads a secret and the end of its line into memory that belongs to the
// secret alone. More than a secret has is secret.ErrLong, at once.
func readAll(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, secret.MaxSize+3)
	for len(b) < cap(b) {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			clear(b)
			return nil, plain(err)
		}
	}
	if len(b) == cap(b) {
		clear(b)
		return nil, secret.ErrLong
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r")), nil
}

// plain is an error without the path, which the source's name has already.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
