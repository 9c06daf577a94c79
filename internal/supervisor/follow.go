package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sallyport/internal/policy"
)

// lookEvery is how often the policy file is looked at. A look is one stat, of
// the path and not of a descriptor: editors, and the kubelet, put another file
// in its place. A change is read when it has been quiet for one more look, so
// that a file that is half written is not taken for a shorter policy.
const lookEvery = 500 * time.Millisecond

// stamp changes whenever the file behind a path does.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return stamp{}, errors.New("not a regular file")
	}
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}, nil
}

// followPolicy puts the policy file in force whenever it changes, until ctx is
// done. A file that the agent could change is not followed.
func (s *sandbox) followPolicy(ctx context.Context) {
	path := s.o.PolicyFile
	if path == "" {
		return
	}
	if err := s.notToFollow(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may be being exchanged
		s.note("%s is not followed: %v", path, err)
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	seen, pending := stamp{}, stamp{}
	document := s.current.Load().document
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := stampOf(path)
		if err != nil || now == seen {
			continue // what is gone stays in force
		}
		if now != pending {
			pending = now
			continue
		}
		next, err := readDocument(path)
		if after, e := stampOf(path); err != nil || e != nil || after != now {
			continue
		}
		seen = now
		if !bytes.Equal(next, document) && s.follow(path, next) {
			document = next
		}
	}
}

// follow puts what the file holds now in force and tells a person. It is false if
// the file may not be followed now.
func (s *sandbox) follow(path string, document []byte) bool {
	if err := s.notToFollow(path); err != nil {
		s.note("%s has changed and is not followed: %v", path, err)
		return false
	}
	change, err := s.replacePolicy(s.policy.Source, document)
	if err != nil {
		s.note("%s", changeFailed(change, err))
		return true
	}
	for _, w := range change.Warnings {
		s.note("warning: %s", w)
	}
	s.note("%s: generation %d is in force%s", path, change.Generation, change.closedText())
	return true
}

func (c Change) closedText() string {
	switch c.Closed {
	case 0:
		return ""
	case 1:
		return ", 1 connection was closed"
	}
	return fmt.Sprintf(", %d connections were closed", c.Closed)
}

// changeFailed shows what is wrong with a policy, and that nothing has changed.
func changeFailed(c Change, err error) string {
	text := err.Error()
	if errs, ok := errors.AsType[policy.Errors](err); ok {
		text = errs.Detail()
	}
	return fmt.Sprintf("%s\ngeneration %d stays in force", text, c.Generation)
}

func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, policy.MaxSize+1))
}

// notToFollow says why a change of the file must not take force by itself: the
// agent could have made it.
func (s *sandbox) notToFollow(path string) error {
	where, err := changeable(path, s.writable)
	if err == nil && where != "" {
		err = errors.New("the agent can write in " + where + "; sallyport policy set puts a policy in force")
	}
	if err == nil {
		_, err = readDocument(path)
	}
	return err
}

// changeable finds a directory below one of dirs that decides which file a path
// means; empty if there is none. dirs have no symbolic links.
func changeable(path string, dirs []string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	at, rest := "/", strings.Split(path, "/")[1:]
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		for _, d := range dirs {
			if next == d || strings.HasPrefix(next, strings.TrimSuffix(d, "/")+"/") {
				return d, nil
			}
		}
		info, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			if st, ok := info.Sys().(*syscall.Stat_t); info.Mode().IsRegular() && ok && st.Nlink > 1 {
				return "", errors.New("it has another name elsewhere (a hard link)")
			}
			at = next
			continue
		}
		if links++; links > 40 {
			return "", syscall.ELOOP
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(at, target)
		}
		at, rest = "/", append(strings.Split(filepath.Clean(target), "/")[1:], rest...)
	}
	return "", nil
}
