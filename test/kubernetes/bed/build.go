package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// component is one directory of the cache and the way to fill it.
type component struct {
	dir  string
	make func(ctx context.Context, b *builder, dir string) error
}

// builder runs commands for Build. Compiler caches are private to it and are
// removed afterwards: the executables are what is worth keeping.
type builder struct {
	cache Cache
	log   io.Writer
	work  string
}

// Build makes what the cache lacks and returns at once where it lacks nothing.
// It needs Go, and on the first run apt-get, dpkg-deb and gcc. Cold it costs
// about ten minutes of processor time; log gets one line a step.
func Build(ctx context.Context, c Cache, log io.Writer) error {
	if len(missing(c)) == 0 {
		return nil
	}
	unlock, err := lock(c)
	if err != nil {
		return err
	}
	defer unlock()
	b := &builder{cache: c, log: log, work: c.path("build")}
	defer b.clean(context.WithoutCancel(ctx))
	for _, part := range missing(c) { // again: another run may just have made them
		if err := b.component(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// Warm says whether Build would have nothing to do.
func Warm(c Cache) bool { return len(missing(c)) == 0 }

func missing(c Cache) []component {
	all := []component{
		{c.DebianDir(), makeDebian},
		{c.AgentDir(), makeAgent},
		{c.RuncDir(), makeRunc},
		{c.ContainerdDir(), makeContainerd},
		{c.KubernetesDir(), makeKubernetes},
	}
	var out []component
	for _, part := range all {
		if _, err := os.Stat(part.dir); err != nil {
			out = append(out, part)
		}
	}
	return out
}

func lock(c Cache) (unlock func(), err error) {
	if err := os.MkdirAll(string(c), 0o755); err != nil {
		return nil, fmt.Errorf("bed: making the cache: %w", err)
	}
	f, err := os.OpenFile(c.path("lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("bed: locking the cache: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("bed: locking the cache: %w", err)
	}
	return func() { f.Close() }, nil
}

// component fills a directory beside its final name and moves it into place,
// so that a directory that exists is complete.
func (b *builder) component(ctx context.Context, part component) error {
	name := filepath.Base(part.dir)
	partial := part.dir + ".partial"
	if err := errors.Join(os.RemoveAll(partial), os.MkdirAll(partial, 0o755), os.MkdirAll(b.work, 0o755)); err != nil {
		return fmt.Errorf("bed: %s: %w", name, err)
	}
	begun := time.Now()
	fmt.Fprintf(b.log, "bed: making %s\n", name)
	if err := part.make(ctx, b, partial); err != nil {
		return fmt.Errorf("bed: %s: %w", name, err)
	}
	if err := os.Rename(partial, part.dir); err != nil {
		return fmt.Errorf("bed: %s: %w", name, err)
	}
	fmt.Fprintf(b.log, "bed: made %s in %.0f s\n", name, time.Since(begun).Seconds())
	return nil
}

func (b *builder) clean(ctx context.Context) {
	// the module cache is read-only: only go itself removes it
	_ = b.run(ctx, b.work, nil, "go", "clean", "-modcache")
	_ = os.RemoveAll(b.work)
}

// run executes one command in dir at low priority; its output becomes part of
// the error.
func (b *builder) run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "15", name}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"GOMODCACHE="+filepath.Join(b.work, "mod"),
		"GOCACHE="+filepath.Join(b.work, "cache"),
		"GOFLAGS=-buildvcs=false -mod=mod",
		"GOWORK=off",
		"CGO_ENABLED=0",
	)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, tail(string(out), 40))
	}
	return nil
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
