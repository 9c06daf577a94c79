package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// modules is where the archive of modules is unpacked: a directory for each
// group, with files in the order of loading.
const modules = "/modules"

// tryModes starts a sandbox in namespace mode, and one for which nobody names a
// mode, before any group of modules is loaded and after each. Without the archive
// it does nothing.
func tryModes(out *json.Encoder) error {
	groups, err := filepath.Glob(modules + "/*")
	if err != nil || len(groups) == 0 {
		return err
	}
	for loaded := range len(groups) + 1 {
		if loaded > 0 {
			if err := load(groups[loaded-1]); err != nil {
				return err
			}
		}
		for _, mode := range []string{"namespace", ""} {
			before, err := interfaces()
			if err != nil {
				return err
			}
			l := sallyport(0, []string{"run", "--mode", mode, "--workdir", "/tmp", "--", "/bin/sallyport", "version"})
			left, err := left(before)
			if err != nil {
				return err
			}
			if err := out.Encode(map[string]any{"what": "try", "loaded": loaded, "mode": mode, "status": l.Status, "err": l.Err, "left": left}); err != nil {
				return err
			}
		}
	}
	return nil
}

func load(group string) error {
	files, err := filepath.Glob(group + "/*.ko")
	for _, f := range files {
		var code []byte
		if code, err = os.ReadFile(f); err == nil {
			err = unix.InitModule(code, "")
		}
		if err != nil {
			return fmt.Errorf("module %s: %w", f, err)
		}
	}
	return err
}

// patience is how long the kernel may take to clean up, in software emulation.
const patience = 30 * time.Second

// left waits until the interfaces are what they were, and says which are not.
func left(before []string) ([]string, error) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		now, err := interfaces()
		now = slices.DeleteFunc(now, func(n string) bool { return slices.Contains(before, n) })
		if err != nil || len(now) == 0 || time.Now().After(end) {
			return now, err
		}
	}
}

func interfaces() ([]string, error) {
	all, err := netlink.LinkList()
	var out []string
	for _, l := range all {
		out = append(out, l.Attrs().Name)
	}
	return out, err
}
