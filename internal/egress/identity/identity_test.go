package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func sum(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// settle makes the times of every file old enough to be trusted.
func settle(l *Ledger) { l.now = func() time.Time { return time.Now().Add(time.Hour) } }

func TestIdentify(t *testing.T) {
	p := programs(t, "agent", "shell", "tool")
	r := start(t, p...)
	l := ledger(t, r.pids[0], Options{})
	got, err := identify(t, l, r.pids[2])
	if err != nil {
		t.Fatal(err)
	}
	want := &Process{
		PID: r.pids[2], Exe: p[2], SHA256: sum(t, p[2]),
		Ancestors: []Binary{{Path: p[1], SHA256: sum(t, p[1])}, {Path: p[0], SHA256: sum(t, p[0])}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Identify (-want +got):\n%s", d)
	}
	root, err := identify(t, l, r.pids[0])
	if err != nil || root.Exe != p[0] || root.Ancestors != nil {
		t.Errorf("Identify(agent) = %+v, %v, want no ancestors", root, err)
	}
}

// TestIdentify_thread asks about a thread that does not lead its group.
func TestIdentify_thread(t *testing.T) {
	p := programs(t, "agent")
	r := start(t, p...)
	tasks, err := os.ReadDir("/proc/" + itoa(r.pids[0]) + "/task")
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads: %v, %v", tasks, err)
	}
	l := ledger(t, r.pids[0], Options{})
	for _, task := range tasks {
		got, err := identify(t, l, atoi(t, task.Name()))
		if err != nil || got.PID != r.pids[0] || got.Exe != p[0] || got.Ancestors != nil {
			t.Errorf("thread %s: %+v, %v", task.Name(), got, err)
		}
	}
}

func TestOpen_cached(t *testing.T) {
	p := programs(t, "agent", "tool")
	r := start(t, p...)
	l := ledger(t, r.pids[0], Options{})
	settle(l)
	a, err := l.look(r.pids[1])
	if err != nil {
		t.Fatal(err)
	}
	if b, err := l.look(r.pids[1]); err != nil || a != b {
		t.Errorf("the second look is a new one (%v)", err)
	}
	if l.files.order.Len() != 2 {
		t.Errorf("%d files are known, want 2", l.files.order.Len())
	}
}

// TestOpen_exec: the same process, another program.
func TestOpen_exec(t *testing.T) {
	p := programs(t, "agent", "before", "after")
	r := start(t, p[0], p[1], "exec:"+p[2])
	l := ledger(t, r.pids[0], Options{})
	settle(l)
	if got, err := identify(t, l, r.pids[1]); err != nil || got.Exe != p[1] {
		t.Fatalf("before: %+v, %v", got, err)
	}
	r.input.Write([]byte("\n"))
	if pid := r.pid(t); pid != r.pids[1] {
		t.Fatalf("execve changed the process id: %d, was %d", pid, r.pids[1])
	}
	got, err := identify(t, l, r.pids[1])
	if err != nil || got.Exe != p[2] || got.SHA256 != sum(t, p[2]) || len(got.Ancestors) != 1 {
		t.Errorf("after: %+v, %v, want %s", got, err, p[2])
	}
}

// TestOpen_orphan: whoever lost its ancestors has none, and the guard that
// adopted it is not one.
func TestOpen_orphan(t *testing.T) {
	p := programs(t, "guard", "agent", "shell", "tool")
	r := start(t, p...)
	l := ledger(t, 0, Options{Root: func() (int, int) { return r.pids[1], r.pids[0] }})
	if got, err := identify(t, l, r.pids[3]); err != nil || len(got.Ancestors) != 2 {
		t.Errorf("tool: %+v, %v, want two ancestors", got, err)
	}
	other := ledger(t, 0, Options{Root: func() (int, int) { return 0, r.pids[2] }})
	if got, err := identify(t, other, r.pids[3]); err != nil || got.Ancestors != nil {
		t.Errorf("child of the guard: %+v, %v, want no ancestors", got, err)
	}
	ours := ledger(t, 0, Options{})
	if got, err := identify(t, ours, r.pids[0]); err != nil || got.Ancestors != nil {
		t.Errorf("child of this process: %+v, %v, want no ancestors", got, err)
	}
}

func TestIdentify_changed(t *testing.T) {
	p := programs(t, "agent", "tool")
	l := ledger(t, 0, Options{})
	first := start(t, p[1])
	if _, err := identify(t, l, first.pids[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p[0], p[1]); err != nil { // another content under the same path
		t.Fatal(err)
	}
	second := start(t, p[1])
	_, err := identify(t, l, second.pids[0])
	wantErr(t, "a changed executable", err, ErrChanged)
	got, err := identify(t, l, first.pids[0])
	if err != nil || got.Kind != Deleted || got.Exe != "deleted:"+p[1] {
		t.Errorf("the first one: %+v, %v, want it deleted", got, err)
	}
}

// TestIdentify_changed_ancestor: what started the caller counts too.
func TestIdentify_changed_ancestor(t *testing.T) {
	p := programs(t, "other", "shell", "tool")
	l := ledger(t, 0, Options{})
	if _, err := identify(t, l, start(t, p[1]).pids[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p[0], p[1]); err != nil {
		t.Fatal(err)
	}
	_, err := identify(t, l, start(t, p[1], p[2]).pids[1])
	wantErr(t, "a changed ancestor", err, ErrChanged)
}

// TestOpen_fresh: times that may not tell two contents apart are not relied on.
func TestOpen_fresh(t *testing.T) {
	p := programs(t, "tool")
	r := start(t, p...)
	l := ledger(t, r.pids[0], Options{})
	var st unix.Stat_t
	if err := unix.Stat(p[0], &st); err != nil {
		t.Fatal(err)
	}
	changed := time.Unix(st.Ctim.Unix())
	for _, tt := range []struct {
		age  time.Duration
		same bool
	}{{-time.Second, false}, {0, false}, {settled - 1, false}, {settled, true}} {
		l.now = func() time.Time { return changed.Add(tt.age) }
		l.files.clear()
		l.threads.clear()
		a, err := l.look(r.pids[0])
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.look(r.pids[0])
		if err != nil {
			t.Fatal(err)
		}
		if same := a.images[0].file == b.images[0].file; same != tt.same {
			t.Errorf("changed %v ago: same content assumed %v, want %v", tt.age, same, tt.same)
		}
	}
}

func TestIdentify_kinds(t *testing.T) {
	p := programs(t, "tool", "loaded")
	t.Run("deleted", func(t *testing.T) {
		r := start(t, p[0])
		want := sum(t, p[0])
		if err := os.Remove(p[0]); err != nil {
			t.Fatal(err)
		}
		got, err := identify(t, ledger(t, r.pids[0], Options{}), r.pids[0])
		if err != nil || got.Kind != Deleted || got.Exe != "deleted:"+p[0] || got.SHA256 != want {
			t.Errorf("Identify = %+v, %v", got, err)
		}
	})
	t.Run("memfd", func(t *testing.T) {
		r := startCommand(t, memfd(t, p[1]), []string{"memfd"})
		got, err := identify(t, ledger(t, r.pids[0], Options{}), r.pids[0])
		if err != nil || got.Kind != Memfd || got.Exe != "memfd:hidden" || got.SHA256 != sum(t, p[1]) {
			t.Errorf("Identify = %+v, %v", got, err)
		}
	})
	t.Run("loader", func(t *testing.T) {
		loaders, _ := filepath.Glob("/lib*/ld-*.so*")
		cat, err := exec.LookPath("cat")
		// Of several C libraries, one has linked cat.
		loaders = slices.DeleteFunc(loaders, func(l string) bool { return exec.Command(l, cat, os.DevNull).Run() != nil })
		if len(loaders) == 0 || err != nil {
			t.Skip("no dynamic loader or no cat on this host")
		}
		c := exec.Command(loaders[0], cat)
		in, _ := c.StdinPipe()
		out, _ := c.StdoutPipe()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer c.Wait()
		defer in.Close()
		in.Write([]byte("x"))
		var b [1]byte
		out.Read(b[:]) // it runs
		real, _ := filepath.EvalSymlinks(loaders[0])
		got, err := identify(t, ledger(t, c.Process.Pid, Options{}), c.Process.Pid)
		if err != nil || got.Kind != Loader || got.Exe != "loader:"+real {
			t.Errorf("Identify = %+v, %v, want loader:%s", got, err, real)
		}
	})
}

// memfd is a command that runs a copy of path which has no path.
func memfd(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("hidden", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	w := os.NewFile(uintptr(fd), "hidden")
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open("/proc/self/fd/" + itoa(fd)) // what is open for writing cannot be run
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { r.Close() })
	c := exec.Command("/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(int(r.Fd())))
	c.Env = []string{chainVar + "="}
	return c
}

// TestOpen_gone: the caller may die at any moment.
func TestOpen_gone(t *testing.T) {
	l := ledger(t, 0, Options{})
	_, err := l.Open(1<<22+1, wanted)
	wantErr(t, "a thread that never was", err, ErrUnknown)
	p := programs(t, "tool")
	r := start(t, p...)
	if _, err := identify(t, l, r.pids[0]); err != nil {
		t.Fatal(err)
	}
	dead, err := os.FindProcess(r.pids[0])
	if err != nil {
		t.Fatal(err)
	}
	dead.Kill()
	dead.Release() // its descriptor: main_test.go counts them
	var info unix.Siginfo
	unix.Waitid(unix.P_PID, r.pids[0], &info, unix.WEXITED|unix.WNOWAIT, nil) // a zombie now
	_, err = l.Open(r.pids[0], wanted)
	wantErr(t, "a zombie", err, ErrUnknown)
}

// TestOpen_hidden: a process that may not be looked into is not known.
func TestOpen_hidden(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may look into every process")
	}
	_, err := ledger(t, 0, Options{}).Open(1, wanted)
	wantErr(t, "process 1", err, ErrUnknown)
}

func TestBounds(t *testing.T) {
	p := programs(t, "agent", "tool")
	r := start(t, p...)
	t.Run("reading", func(t *testing.T) {
		l := ledger(t, r.pids[0], Options{Reading: 1})
		for range cap(l.slots) {
			l.slots <- struct{}{} // nothing gets read
		}
		book, err := l.Open(r.pids[0], wanted)
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Open(r.pids[1], wanted)
		wantErr(t, "a second new executable", err, ErrFull)
		book(local)
		c, err := l.Lookup(limit(t), local)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err = c.Identify(ctx)
		wantErr(t, "Identify with an ended context", err, context.Canceled)
		l.Close()
		_, err = c.Identify(limit(t))
		wantErr(t, "Identify after Close", err, ErrClosed)
	})
	t.Run("paths", func(t *testing.T) {
		l := ledger(t, r.pids[0], Options{Paths: 1})
		if _, err := identify(t, l, r.pids[0]); err != nil {
			t.Fatal(err)
		}
		_, err := identify(t, l, r.pids[1])
		wantErr(t, "a second path", err, ErrFull)
		if _, err := identify(t, l, r.pids[0]); err != nil {
			t.Errorf("the first path: %v", err)
		}
	})
	t.Run("threads", func(t *testing.T) {
		l := ledger(t, r.pids[0], Options{Threads: 1})
		before := openFDs()
		for range 3 {
			for _, pid := range r.pids {
				if _, err := identify(t, l, pid); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := openFDs() - before; n > 1 {
			t.Errorf("%d descriptors for one thread", n)
		}
	})
}

func TestKind(t *testing.T) {
	var all []string
	for k := File; k <= Loader+1; k++ {
		b, _ := k.MarshalText()
		all = append(all, string(b))
	}
	if got := strings.Join(all, " "); got != "file deleted memfd loader kind 4" {
		t.Errorf("kinds: %s", got)
	}
}
