package modes

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

const crowd = 50

// patient is how long the kernel may take to clean up behind a crowd.
const patient = 2 * time.Minute

func await(done func() bool) bool {
	for end := time.Now().Add(patient); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// one is a running sandbox: it has said where its proxy is.
type one struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	proxy string
}

// TestFifty starts fifty sandboxes at once and stops them in random order, half
// of them by SIGKILL of the supervisor: no two have the same address, and
// nothing is left.
func TestFifty(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		before, processes := links(t), ours(t, b)
		var mu sync.Mutex
		var wg sync.WaitGroup
		var all []one
		for range crowd {
			c := b.command(t, root, sandbox{Mode: policy.Namespace, Command: []string{b.exe, "probe", "address"},
				Policy: fmt.Sprintf("version: 1\nfilesystem_policy: {include_workdir: true, read_only: [/usr, /lib, /lib64, /etc, %s]}\n", b.exe)})
			wg.Go(func() {
				s, err := begin(c)
				if err != nil {
					t.Errorf("starting: %v", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, s)
			})
		}
		wg.Wait()
		seen := map[string]bool{}
		for _, s := range all {
			if seen[s.proxy] || !strings.HasPrefix(s.proxy, "http://") {
				t.Errorf("address %q is not one sandbox's alone", s.proxy)
			}
			seen[s.proxy] = true
		}
		if got := len(links(t)); got != len(before)+crowd {
			t.Errorf("control: %d interfaces with %d sandboxes, want %d", got, crowd, len(before)+crowd)
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for i, s := range all {
			wg.Go(func() {
				if i%2 == 0 {
					s.cmd.Process.Kill()
				} else {
					s.in.Close() // the agent ends by itself
				}
				err := s.cmd.Wait()
				if i%2 == 1 && err != nil {
					t.Errorf("a sandbox that ended by itself: %v", err)
				}
			})
		}
		wg.Wait()
		if !await(func() bool { return len(ours(t, b)) == len(processes) }) {
			t.Errorf("processes left: %v", ours(t, b))
		}
		gone(t, before)
	})
}

func begin(c *exec.Cmd) (one, error) {
	in, err := c.StdinPipe()
	if err != nil {
		return one{}, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return one{}, err
	}
	var said strings.Builder
	c.Stderr = &said
	if err := c.Start(); err != nil {
		return one{}, err
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		c.Wait()
		return one{}, fmt.Errorf("%s", said.String())
	}
	return one{c, in, lines.Text()}, nil
}

// ours are the processes that run the test's copy of this program.
func ours(t *testing.T, b *bench) []string {
	t.Helper()
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range exes {
		if to, err := os.Readlink(e); err == nil && to == b.exe {
			out = append(out, e)
		}
	}
	return out
}
