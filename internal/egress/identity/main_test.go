package identity

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary plays the programs of a sandbox: with this variable it runs
// the first program of the list with the rest of it, or waits if it is the last.
const chainVar = "IDENTITY_TEST_CHAIN"

func TestMain(m *testing.M) {
	if chain, ok := os.LookupEnv(chainVar); ok {
		play(strings.Fields(chain))
	}
	before := openFDs()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if leaked := openFDs() - before; leaked != 0 {
			fmt.Fprintf(os.Stderr, "%d descriptors left open\n", leaked)
			code = 1
		}
	}
	os.Exit(code)
}

// openFDs counts open files but those of the runtime's own poller.
func openFDs() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	n := 0
	for _, e := range list {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); !strings.HasPrefix(to, "anon_inode:[event") {
			n++
		}
	}
	return n
}

// play says its process id, starts the next program, and ends with its input.
// "exec:PATH" becomes that program on a line of input.
func play(chain []string) {
	fmt.Printf("pid %d\n", os.Getpid())
	in := bufio.NewReader(os.Stdin)
	if len(chain) == 0 {
		io.Copy(io.Discard, in)
		os.Exit(0)
	}
	env := []string{chainVar + "=" + strings.Join(chain[1:], " ")}
	if path, ok := strings.CutPrefix(chain[0], "exec:"); ok {
		in.ReadString('\n')
		syscall.Exec(path, []string{path}, env)
		os.Exit(1)
	}
	c := exec.Command(chain[0])
	c.Env, c.Stdin, c.Stdout = env, os.Stdin, os.Stdout
	if c.Start() != nil {
		os.Exit(1)
	}
	c.Wait()
	os.Exit(0)
}

// programs makes copies of the test binary, each with a content of its own.
func programs(t testing.TB, names ...string) []string {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, n := range names {
		path := filepath.Join(dir, n)
		if err := os.WriteFile(path, append(b, n...), 0o755); err != nil {
			t.Fatal(err)
		}
		list = append(list, path)
	}
	return list
}

// running is a started chain of programs.
type running struct {
	pids  []int
	input io.WriteCloser
	lines *bufio.Scanner
}

// pid reads the next process id that a program says.
func (r *running) pid(t testing.TB) int {
	t.Helper()
	var pid int
	if !r.lines.Scan() {
		t.Fatal("a program said nothing")
	}
	if _, err := fmt.Sscanf(r.lines.Text(), "pid %d", &pid); err != nil {
		t.Fatalf("a program said %q", r.lines.Text())
	}
	return pid
}

// start runs a chain and returns once each of its programs is up.
func start(t testing.TB, chain ...string) *running {
	t.Helper()
	c := exec.Command(chain[0])
	c.Env = []string{chainVar + "=" + strings.Join(chain[1:], " ")}
	return startCommand(t, c, chain)
}

func startCommand(t testing.TB, c *exec.Cmd, chain []string) *running {
	t.Helper()
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		c.Wait()
	})
	r := &running{input: in, lines: bufio.NewScanner(out)}
	for _, p := range chain {
		if !strings.HasPrefix(p, "exec:") {
			r.pids = append(r.pids, r.pid(t))
		}
	}
	return r
}

// ledger makes a ledger for a sandbox whose first process is agent.
func ledger(t testing.TB, agent int, o Options) *Ledger {
	t.Helper()
	if o.Root == nil {
		o.Root = func() (int, int) { return agent, 0 }
	}
	l := New(o)
	t.Cleanup(func() { l.Close() })
	return l
}

var (
	wanted = netip.MustParseAddrPort("93.184.216.34:443")
	local  = netip.MustParseAddrPort("127.0.0.1:40000")
)

// limit keeps a test that waits for something from hanging.
func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// identify takes a process through the whole way.
func identify(t testing.TB, l *Ledger, tid int) (*Process, error) {
	t.Helper()
	book, err := l.Open(tid, wanted)
	if err != nil {
		return nil, err
	}
	book(local)
	c, err := l.Lookup(limit(t), local)
	if err != nil {
		t.Fatal(err)
	}
	if c.Wanted != wanted || c.Local != local {
		t.Errorf("connection %+v, want %v from %v", c, wanted, local)
	}
	return c.Identify(limit(t))
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error = %v, want %v", what, err, want)
	}
}
