package testkit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leakWait is how long a process that was killed may take to disappear.
const leakWait = time.Minute

// NoLeaks fails the test if, at its end, it has left processes or files of ours
// in the temporary directory, which is this test's own from here on: what other
// tests leave there meanwhile is theirs. Orphans of children are seen too: this
// process becomes their reaper.
func NoLeaks(t testing.TB) {
	t.Helper()
	dir, err := PublicDir(t)
	if err == nil {
		err = os.Chmod(dir, 0o1777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	before, files := Children(), temporary()
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(leakWait); ; time.Sleep(5 * time.Millisecond) {
			left = minus(Children(), before)
			if len(left) == 0 || time.Now().After(end) {
				break
			}
		}
		for _, p := range left {
			t.Errorf("left behind: process %s", p)
		}
		for _, f := range minus(temporary(), files) {
			t.Errorf("left behind: file %s", f)
		}
	})
}

// Children describes the living children of this process, zombies left out, as
// "pid (command)".
func Children() []string {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	var out []string
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			continue // the thread has ended
		}
		for _, pid := range strings.Fields(string(b)) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil || strings.Contains(string(stat), ") Z ") {
				continue
			}
			cmd, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			out = append(out, fmt.Sprintf("%s (%s)", pid, strings.TrimSpace(strings.ReplaceAll(string(cmd), "\x00", " "))))
		}
	}
	return out
}

func temporary() []string {
	f, _ := filepath.Glob(filepath.Join(os.TempDir(), "*sallyport*"))
	return f
}

func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
