package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/procfs"
)

// fileKey is what says that an executable is the same as before without
// reading it again. A process cannot set the ctime of a file.
type fileKey struct {
	dev, ino           uint64
	size, mtime, ctime int64
}

func keyOf(f procfs.ExeFile) fileKey { return fileKey{f.Dev, f.Ino, f.Size, f.Mtime, f.Ctime} }

// file is the content of one executable. The fields below done are set before
// done is closed and not changed after.
type file struct {
	key   fileKey
	fresh bool // changed so recently that a later change may bear the same times
	done  chan struct{}

	digest string // SHA-256 in hex
	loader bool
	err    error
}

// settled is how old a file's last change must be before its times tell it
// from a later change: kernels before 6.13 stamp files with a clock that moves
// once in a timer tick, at most 10 ms.
const settled = 100 * time.Millisecond

// maxExecutable is the size of the largest executable that is read, in bytes.
const maxExecutable = 4 << 30

// chunk is how much is read between two looks at the context, in bytes.
const chunk = 256 << 10

// content returns the file behind fd, takes ownership of fd, and sees to it
// that somebody reads the file if it is not known. The caller holds no lock.
func (l *Ledger) content(fd int, exe procfs.ExeFile) (*file, error) {
	key := keyOf(exe)
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.files.get(key); ok && f.usable() {
		unix.Close(fd)
		return f, nil
	}
	if l.reading >= l.o.Reading {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: %d executables wait to be read", ErrFull, l.reading)
	}
	age := l.now().Sub(time.Unix(0, key.ctime))
	f := &file{key: key, fresh: age < settled, done: make(chan struct{})}
	l.files.put(key, f)
	l.reading++
	go l.read(f, fd)
	return f, nil
}

// usable reports whether the content stands for another look at the same key.
func (f *file) usable() bool {
	select {
	case <-f.done:
		return f.err == nil && !f.fresh
	default:
		return !f.fresh
	}
}

// read fills in f from fd, which it owns. A few are read at a time.
func (l *Ledger) read(f *file, fd int) {
	defer func() {
		l.mu.Lock()
		l.reading--
		l.mu.Unlock()
		close(f.done)
	}()
	in := os.NewFile(uintptr(fd), "executable")
	defer in.Close()
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-l.ctx.Done():
		f.err = ErrClosed
		return
	}
	if f.digest, f.err = digest(l.ctx, in, f.key.size); f.err != nil {
		return
	}
	if f.loader, f.err = isLoader(in); f.err != nil {
		return
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.err = fmt.Errorf("%w: %w", ErrUnknown, err)
	} else if (fileKey{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}) != f.key {
		f.err = fmt.Errorf("%w while it was read", ErrChanged)
	}
}

// digest is the SHA-256 of size bytes.
func digest(ctx context.Context, in io.ReaderAt, size int64) (string, error) {
	if size > maxExecutable {
		return "", fmt.Errorf("%w: executable of %d bytes, expected at most %d", ErrUnknown, size, int64(maxExecutable))
	}
	h := sha256.New()
	buf := make([]byte, min(chunk, size))
	for at := int64(0); at < size; {
		if ctx.Err() != nil {
			return "", ErrClosed
		}
		n, err := in.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		h.Write(buf[:n])
		at += int64(n)
		if errors.Is(err, io.EOF) && at < size {
			return "", fmt.Errorf("%w while it was read", ErrChanged)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
