package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/procfs"
)

// maxAncestors is how many processes may stand between a caller and the
// sandbox's first process, this one included.
const maxAncestors = 64

// image is one executable as it was found: a path and a content.
type image struct {
	exe  procfs.ExeFile
	file *file
}

// binary is the image as others see it. Whether it is a loader is only known
// when the file has been read.
func (i image) binary() Binary {
	switch {
	case i.exe.Memfd:
		return Binary{Path: "memfd:" + strings.TrimPrefix(i.exe.Path, "/memfd:"), Kind: Memfd}
	case i.exe.Deleted:
		return Binary{Path: "deleted:" + i.exe.Path, Kind: Deleted}
	}
	return Binary{Path: i.exe.Path, Kind: File}
}

// identified is binary with the content; the file has been read.
func (i image) identified() Binary {
	b := i.binary()
	if i.file.loader && b.Kind == File {
		b.Path, b.Kind = "loader:"+b.Path, Loader
	}
	b.SHA256 = i.file.digest
	return b
}

// snapshot is who a process was when it asked for a connection.
type snapshot struct {
	pid    int
	images []image // the process, then its ancestors
	outer  *Process
	inner  atomic.Pointer[Process] // set once everything is identified
}

func newSnapshot(pid int, images []image) *snapshot {
	s := &snapshot{pid: pid, images: images}
	s.outer = s.process(image.binary)
	return s
}

func (s *snapshot) process(describe func(image) Binary) *Process {
	self := describe(s.images[0])
	p := &Process{PID: s.pid, Exe: self.Path, SHA256: self.SHA256, Kind: self.Kind}
	for _, i := range s.images[1:] {
		p.Ancestors = append(p.Ancestors, describe(i))
	}
	return p
}

// failed reports whether one of the executables could not be read.
func (s *snapshot) failed() bool {
	if s.inner.Load() != nil {
		return false
	}
	for _, i := range s.images {
		select {
		case <-i.file.done:
			if i.file.err != nil {
				return true
			}
		default:
		}
	}
	return false
}

// known is a thread that has been looked at before.
type known struct {
	mu   sync.Mutex
	dir  int // its directory under /proc; -1 when closed
	exe  procfs.ExeFile
	seen *snapshot
}

func (k *known) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dir >= 0 {
		unix.Close(k.dir)
		k.dir = -1
	}
}

// still returns the snapshot if the thread lives and executes the same file.
func (k *known) still() *snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dir < 0 || k.seen.images[0].file.fresh || k.seen.failed() {
		return nil
	}
	if exe, err := procfs.ExeAt(k.dir); err != nil || exe != k.exe {
		return nil
	}
	return k.seen
}

// look returns the snapshot of a thread: the one that is known, or a new one.
func (l *Ledger) look(tid int) (*snapshot, error) {
	l.mu.Lock()
	k, ok := l.threads.get(tid)
	l.mu.Unlock()
	if ok {
		if s := k.still(); s != nil {
			return s, nil
		}
	}
	k, err := l.meet(tid)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		k.close()
		return nil, ErrClosed
	}
	l.threads.put(tid, k)
	return k.seen, nil
}

// attempts is how often a look is repeated when a process went away under it.
const attempts = 3

// meet looks at a thread for the first time.
func (l *Ledger) meet(tid int) (*known, error) {
	dir, err := procfs.Dir(tid)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	for try := 1; ; try++ {
		s, err := l.lineage(tid)
		if err == nil {
			k := &known{dir: dir, exe: s.images[0].exe, seen: s}
			// The directory was opened first: if it still answers, everything
			// above was read about the same thread.
			if exe, err := procfs.ExeAt(dir); err == nil && exe == k.exe {
				return k, nil
			}
			err = errMoved
		}
		if try == attempts || !errors.Is(err, errMoved) {
			unix.Close(dir)
			return nil, err
		}
	}
}

// errMoved: a process went away, or got another parent, while it was looked at.
var errMoved = fmt.Errorf("%w: it changed while it was looked at", ErrUnknown)

// lineage looks at a thread and its ancestors.
func (l *Ledger) lineage(tid int) (*snapshot, error) {
	pid, err := procfs.Tgid(tid)
	if err != nil {
		return nil, moved(err)
	}
	self, err := l.image(tid)
	if err != nil {
		return nil, err
	}
	images := []image{self}
	agent, guard := l.o.Root()
	child, err := procfs.Stat(pid)
	if err != nil {
		return nil, moved(err)
	}
	for child.TID != agent && !outside(child.PPID, guard) {
		if len(images) > maxAncestors {
			return nil, fmt.Errorf("%w: more than %d ancestors", ErrUnknown, maxAncestors)
		}
		parent, err := procfs.Stat(child.PPID)
		if err != nil {
			return nil, moved(err)
		}
		i, err := l.image(parent.TID)
		if err != nil {
			return nil, err
		}
		// As long as the child names it as its parent, the number was not
		// given to another process.
		again, err := procfs.Stat(child.TID)
		if err != nil {
			return nil, moved(err)
		}
		if again.PPID != child.PPID || again.Start != child.Start {
			return nil, errMoved
		}
		images = append(images, i)
		child = parent
	}
	return newSnapshot(pid, images), nil
}

// outside reports whether a parent is no part of the sandbox: the guard, which
// adopts orphans, this process, or the first process of the PID namespace.
func outside(ppid, guard int) bool {
	return ppid <= 1 || ppid == guard || ppid == os.Getpid()
}

// image opens what a thread executes.
func (l *Ledger) image(tid int) (image, error) {
	fd, err := procfs.OpenExe(tid, unix.O_RDONLY)
	if err != nil {
		return image{}, moved(err)
	}
	exe, err := procfs.ExeOf(fd)
	if err != nil {
		unix.Close(fd)
		return image{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	f, err := l.content(fd, exe)
	return image{exe, f}, err
}

// moved turns an error of procfs into one of this package.
func moved(err error) error {
	if procfs.Gone(err) {
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// identify waits for the contents of a snapshot and holds them against those
// that their paths had before.
func (l *Ledger) identify(ctx context.Context, s *snapshot) (*Process, error) {
	if p := s.inner.Load(); p != nil {
		return p, nil
	}
	for _, i := range s.images {
		select {
		case <-i.file.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := i.file.err; err != nil {
			return nil, fmt.Errorf("%s: %w", i.binary().Path, err)
		}
	}
	p := s.process(image.identified)
	if err := l.pin(Binary{p.Exe, p.SHA256, p.Kind}); err != nil {
		return nil, err
	}
	for _, b := range p.Ancestors {
		if err := l.pin(b); err != nil {
			return nil, err
		}
	}
	s.inner.Store(p)
	return p, nil
}

// pin holds a binary against the first content under its path.
func (l *Ledger) pin(b Binary) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, ok := l.pins[b.Path]
	switch {
	case !ok && len(l.pins) >= l.o.Paths:
		return fmt.Errorf("%w: %d paths of executables are known", ErrFull, len(l.pins))
	case !ok:
		l.pins[b.Path] = b.SHA256
	case first != b.SHA256:
		return fmt.Errorf("%w: %s: SHA-256 is %.12s…, was %.12s…", ErrChanged, b.Path, b.SHA256, first)
	}
	return nil
}
