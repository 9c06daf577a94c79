package bed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// settings are the kernel's own that a kubelet changes for the whole machine.
var settings = []string{
	"/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops",
	"/proc/sys/vm/panic_on_oom", "/proc/sys/kernel/keys/root_maxkeys", "/proc/sys/kernel/keys/root_maxbytes",
}

// prepareHost makes the run's cgroups and remembers the machine's settings.
// undo puts everything back and reports what it could not.
func prepareHost(s *spec) (undo func() error, err error) {
	before := map[string]string{}
	for _, f := range settings {
		if b, err := os.ReadFile(f); err == nil {
			before[f] = strings.TrimSpace(string(b))
		}
	}
	s.CgroupRoot = "/" + filepath.Base(string(s.Dirs))
	roots, err := makeCgroups(s.CgroupRoot)
	undo = func() error {
		var errs []error
		for f, v := range before {
			if err := os.WriteFile(f, []byte(v), 0); err != nil {
				errs = append(errs, fmt.Errorf("bed: restoring %s: %w", f, err))
			}
		}
		// runc may have made one more, in a hierarchy that was not asked
		all, _ := filepath.Glob("/sys/fs/cgroup/*" + s.CgroupRoot)
		for _, r := range append(all, roots...) {
			errs = append(errs, removeCgroup(r))
		}
		return errors.Join(errs...)
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// makeCgroups makes one directory in each hierarchy of the first version, or
// in the unified one where that is all there is.
func makeCgroups(name string) ([]string, error) {
	var roots []string
	base := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(base, "cgroup.controllers")); err == nil {
		root := filepath.Join(base, name)
		return []string{root}, os.MkdirAll(root, 0o755)
	}
	seen := map[string]bool{}
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, fmt.Errorf("bed: cgroups: %w", err)
	}
	for _, e := range entries {
		real, err := filepath.EvalSymlinks(filepath.Join(base, e.Name()))
		if err != nil || seen[real] || e.Name() == "unified" {
			continue
		}
		seen[real] = true
		root := filepath.Join(real, name)
		if err := os.MkdirAll(root, 0o755); err != nil {
			return roots, fmt.Errorf("bed: cgroups: %w", err)
		}
		roots = append(roots, root)
		if e.Name() == "cpuset" {
			if err := inheritCpuset(real, root); err != nil {
				return roots, err
			}
		}
	}
	return roots, nil
}

// inheritCpuset fills a new directory: an empty cpuset takes no process.
func inheritCpuset(parent, child string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, f))
		if err == nil {
			err = os.WriteFile(filepath.Join(child, f), b, 0)
		}
		if err != nil {
			return fmt.Errorf("bed: cgroups: %w", err)
		}
	}
	return nil
}

// removeCgroup removes a tree from its leaves. The last processes of a pod may
// take a moment to leave it.
func removeCgroup(root string) error {
	var err error
	for range 200 {
		var dirs []string
		filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		err = nil
		for i := len(dirs) - 1; i >= 0; i-- {
			if e := syscall.Rmdir(dirs[i]); e != nil && e != syscall.ENOENT {
				err = fmt.Errorf("bed: removing %s: %w", dirs[i], e)
			}
		}
		if err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
