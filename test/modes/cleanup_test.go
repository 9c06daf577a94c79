package modes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/internal/cli"
	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

// TestCleanup kills a supervisor while a process that somebody put into the
// agent's network namespace lives on there: it is found, and removed.
func TestCleanup(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		before := links(t)
		c := b.command(t, root, sandbox{Mode: policy.Namespace, Command: []string{b.exe, "probe", "address"},
			Policy: fmt.Sprintf("version: 1\nfilesystem_policy: {include_workdir: true, read_only: [/usr, /lib, /lib64, /etc, %s]}\n", b.exe)})
		s, err := begin(c)
		if err != nil {
			t.Fatal(err)
		}
		other := enter(t, agentOf(t, b, c.Process.Pid))
		defer other.Wait()
		defer other.Process.Kill()
		if got := cleanup(t, b, "--json"); len(got) != 0 {
			t.Errorf("cleanup took what is alive: %+v", got)
		}
		s.cmd.Process.Kill()
		s.cmd.Wait()
		if !await(func() bool { return len(cleanup(t, b, "--json", "--dry-run")) == 1 }) {
			t.Fatal("control: a process in the namespace keeps nothing")
		}
		got := cleanup(t, b, "--json")
		if len(got) != 1 || !got[0].Removed || got[0].Owner != c.Process.Pid || len(got[0].PIDs) == 0 {
			t.Errorf("cleanup = %+v, want one of %d removed", got, c.Process.Pid)
		}
		other.Wait()
		gone(t, before)
	})
}

type cleaned struct {
	Name    string
	Owner   int
	PIDs    []int
	Removed bool
}

func cleanup(t *testing.T, b *bench, flags ...string) (out []cleaned) {
	t.Helper()
	f, err := os.Create(filepath.Join(b.dir, "cleanup.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if status := cli.Run(t.Context(), cli.Streams{In: os.Stdin, Out: f, Err: os.Stderr}, append([]string{"cleanup"}, flags...)); status != 0 {
		t.Errorf("cleanup %v: status = %d", flags, status)
	}
	text, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out
}

// agentOf is a process of the sandbox that has another network namespace than
// the supervisor.
func agentOf(t *testing.T, b *bench, supervisor int) (ns string) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range ours(t, b) {
		name := strings.TrimSuffix(exe, "exe") + "ns/net"
		if at, err := os.Readlink(name); err == nil && at != own {
			return name
		}
	}
	t.Fatalf("supervisor %d has no agent in a namespace", supervisor)
	return ""
}

// enter starts a process in a network namespace, as an administrator would.
func enter(t *testing.T, ns string) *exec.Cmd {
	t.Helper()
	c := exec.Command("sleep", "1000")
	done := make(chan error)
	// Not the first thread, which would stay there and take this process for one
	// of the namespace. It ends behind the supervisor, which it may have started
	// and which would end with it.
	go testkit.OnOwnThread(func() error {
		fd, err := unix.Open(ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = c.Start()
		}
		done <- err
		<-t.Context().Done()
		return nil
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c
}
