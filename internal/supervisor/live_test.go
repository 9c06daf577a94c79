package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/testkit"

	"sallyport/internal/event"
)

// aWhile is how long a test waits for what takes about a second.
const aWhile = time.Minute

// lines collects what a supervisor says, and lets a test wait for some of it.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) await(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(aWhile); !strings.Contains(l.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting for %q; so far:\n%s", text, l)
		}
	}
}

// live is a sandbox whose policy is to be changed, and the server that it may
// reach.
type live struct {
	t       *testing.T
	out     *lines
	file    string // the policy
	control string
	began   chan string        // path of each request
	ended   chan string        // the same when its connection is gone
	servers string             // host_services of the policy
	stop    context.CancelFunc // ends the sandbox
}

const reach = `network_policies:
  model:
    endpoints: [{host: model.local, port: 80}]
    binaries: [{path: /usr/bin/curl}]
`

// goLive starts a sandbox in which a shell runs script. Its policy is in a place
// that the agent cannot write, unless dir names another one.
func goLive(t *testing.T, as *syscall.Credential, dir, network, script string) *live {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	l := &live{t: t, out: &lines{}, began: make(chan string, 16), ended: make(chan string, 16)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "begun")
		w.(http.Flusher).Flush()
		l.began <- r.URL.Path
		if r.URL.Path == "/once" {
			return
		}
		<-r.Context().Done()
		l.ended <- r.URL.Path
	}))
	t.Cleanup(server.Close)
	l.servers = fmt.Sprintf("host_services: [{host: model.local, port: 80, to: %q}]\n", server.Listener.Addr())
	public, err := testkit.PublicDir(t)
	if err != nil {
		t.Fatal(err)
	}
	work := workdir(t)
	switch dir {
	case "":
		l.file = filepath.Join(public, "policy.yaml")
	case "link":
		l.file = filepath.Join(public, "policy.yaml")
		if err := os.Symlink(filepath.Join(work, "policy.yaml"), l.file); err != nil {
			t.Fatal(err)
		}
	default:
		l.file = filepath.Join(work, "policy.yaml")
	}
	l.write(network)
	l.control = filepath.Join(public, "control")
	if err := os.Mkdir(l.control, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(l.control, 0o777); err != nil {
		t.Fatal(err)
	}
	c := command(t, as, spec{PolicyFile: l.file, Control: l.control, Workdir: work, Command: []string{"sh", "-c", script}})
	c.Stdout, c.Stderr = l.out, l.out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGKILL)
		c.Wait()
	})
	return l
}

// write puts another policy in the place of the file, as editors do. Where the
// file is a link, it is what the link leads to.
func (l *live) write(network string) {
	l.t.Helper()
	file, err := filepath.EvalSymlinks(l.file)
	if err != nil {
		if file, err = os.Readlink(l.file); err != nil {
			file = l.file
		}
	}
	if err := os.WriteFile(file+".new", []byte(l.document(network)), 0o644); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		l.t.Fatal(err)
	}
}

func (l *live) document(network string) string {
	return `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /bin, /lib, /lib64, /etc, /proc, /dev/urandom]
  read_write: [/dev/null]
` + l.servers + network
}

func (l *live) expect(from chan string, want string) {
	l.t.Helper()
	select {
	case got := <-from:
		if got != want {
			l.t.Fatalf("the server saw %s, want %s", got, want)
		}
	case <-time.After(aWhile):
		l.t.Fatalf("the server saw nothing, want %s; the sandbox said:\n%s", want, l.out)
	}
}

// TestPolicyFileIsFollowed: a change takes force, as a whole or not at all, and
// what is no longer allowed ends.
func TestPolicyFileIsFollowed(t *testing.T) {
	users(t, func(t *testing.T, as *syscall.Credential) {
		l := goLive(t, as, "", reach, `until curl -sSfN http://model.local/first; do sleep 0.1; done; echo over; sleep 60`)
		l.expect(l.began, "/first")
		l.write(reach + "  other: {endpoints: [{host: b.example, port: 1}], binaries: [{path: /bin/x}]}\n")
		l.out.await(t, "generation 2 is in force\n") // and closes nothing
		l.write(reach + "    binaries: []\n")
		l.out.await(t, `duplicate field "binaries"`)
		l.out.await(t, "generation 2 stays in force")
		l.write(reach + "network_capture: off\n")
		l.out.await(t, "network_capture is fixed when a sandbox starts")
		select {
		case p := <-l.ended:
			t.Fatalf("the connection of %s ended, and it is allowed still:\n%s", p, l.out)
		default:
		}
		l.write("")
		l.out.await(t, "generation 3 is in force, 1 connection was closed")
		l.expect(l.ended, "/first")
		l.out.await(t, "403") // it tries again
		l.write(reach)
		l.expect(l.began, "/first")
	})
}

// TestPolicyFileOfTheAgent: a policy that the agent could write is not followed,
// by whatever name it is found.
func TestPolicyFileOfTheAgent(t *testing.T) {
	for _, where := range []string{"workdir", "link"} {
		t.Run(where, func(t *testing.T) {
			users(t, func(t *testing.T, as *syscall.Credential) {
				l := goLive(t, as, where, "", `sleep 0.1; until curl -sSfN http://model.local/once; do sleep 0.1; done; sleep 60`)
				l.out.await(t, "is not followed: the agent can write in")
				l.write(reach)
				l.out.await(t, "403")
				time.Sleep(6 * lookEvery) // nothing is to happen, so there is nothing to wait for
				select {
				case p := <-l.began:
					t.Fatalf("%s was reached by a policy of the agent's own", p)
				default:
				}
				// Control: a person puts the same policy in force.
				a, err := l.ask(Question{Ask: AskSet, Name: "by hand", Document: l.document(reach)})
				if err != nil || a.Problem != "" || a.Change.Generation != 2 {
					t.Fatalf("set = %+v, %v\n%s", a, err, l.out)
				}
				l.expect(l.began, "/once")
			})
		})
	}
}

// ask puts a question to the sandbox from outside.
func (l *live) ask(q Question) (Answer, error) {
	l.t.Helper()
	for end := time.Now().Add(aWhile); ; time.Sleep(10 * time.Millisecond) {
		found, err := Running(l.t.Context(), l.control)
		if err != nil {
			l.t.Fatal(err)
		}
		if socket, err := Choose(found, ""); err == nil {
			return Ask(l.t.Context(), socket, q)
		} else if time.Now().After(end) {
			l.t.Fatalf("%v; the sandbox said:\n%s", err, l.out)
		}
	}
}

// TestControlSocket: a person can ask for the policy and change it, all or
// nothing; the agent cannot get there though it is the same user.
func TestControlSocket(t *testing.T) {
	users(t, func(t *testing.T, as *syscall.Credential) {
		l := goLive(t, as, "", "", `until [ -e go ]; do sleep 0.05; done; curl -sS --unix-socket "$(cat go)" http://x/; echo "curl: $?"; sleep 60`)
		a, err := l.ask(Question{Ask: AskPolicy})
		if err != nil || a.Document != l.document("") || a.Sandbox.Generation != 1 || a.Sandbox.Command[0] != "sh" {
			t.Fatalf("policy = %+v, %v", a, err)
		}
		a, err = l.ask(Question{Ask: AskSet, Name: "broken.yaml", Document: l.document("network_policies: 5\n")})
		if err != nil || !strings.Contains(a.Problem, "broken.yaml:7:19: network_policies: expected a mapping") || !strings.Contains(a.Problem, "^") || a.Change.Generation != 1 {
			t.Fatalf("a broken policy: %+v, %v", a, err)
		}
		a, err = l.ask(Question{Ask: AskSet, Name: "next.yaml", Document: l.document(reach)})
		if err != nil || a.Problem != "" || a.Change.Generation != 2 {
			t.Fatalf("set = %+v, %v", a, err)
		}
		if a, err = l.ask(Question{Ask: AskPolicy}); err != nil || a.Document != l.document(reach) || a.Sandbox.Policy != "next.yaml" {
			t.Fatalf("policy = %+v, %v", a, err)
		}
		for _, q := range []Question{{Ask: "shell"}, {Ask: AskDenial, ID: "ffff"}} {
			if a, err := l.ask(q); err != nil || a.Problem == "" {
				t.Errorf("%+v = %+v, %v, want a problem", q, a, err)
			}
		}
		found, err := Running(t.Context(), l.control)
		if err != nil {
			t.Fatal(err)
		}
		socket, err := Choose(found, "")
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of the socket: %v, %v", info.Mode(), err)
		}
		// Control: this test can connect to it, as the same user or root.
		if c, err := net.Dial("unix", socket); err != nil {
			t.Fatal(err)
		} else {
			c.Close()
		}
		work := filepath.Dir(strings.Fields(a.Sandbox.Workdir + "/.")[0])
		if err := os.WriteFile(filepath.Join(work, "go.new"), []byte(socket), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(work, "go.new"), filepath.Join(work, "go")); err != nil {
			t.Fatal(err)
		}
		l.out.await(t, "curl: 7") // could not connect
	})
}

// TestControlKnowsTheGate: should the gate ever make the agent's connection to the
// control socket, the kernel names the gate's own process to who answers there.
func TestControlKnowsTheGate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var told []event.Event
	s := &sandbox{session: event.NewSession(event.Origin{}), o: Options{Event: func(e event.Event) { told = append(told, e) }}}
	if err := (&control{sandbox: s}).admit(conn); err == nil || len(told) != 1 {
		t.Errorf("admit = %v with %d findings, want a refusal with one", err, len(told))
	}
}

// TestRequestsAreJudgedAgain: of two requests that run to one host, a new policy
// ends the one that it does not allow.
func TestRequestsAreJudgedAgain(t *testing.T) {
	rest := func(rules string) string {
		return "network_policies:\n  model:\n    endpoints: [{host: model.local, port: 80, protocol: rest, enforcement: enforce, rules: [" + rules + "]}]\n" +
			"    binaries: [{path: /usr/bin/curl}]\n"
	}
	const first, second = "{allow: {method: GET, path: /first}}", "{allow: {method: GET, path: /second}}"
	users(t, func(t *testing.T, as *syscall.Credential) {
		l := goLive(t, as, "", rest(first+", "+second), `curl -sSN http://model.local/first & curl -sSN http://model.local/second; echo "second: $?"; wait; echo over`)
		seen := map[string]bool{}
		for range 2 {
			select {
			case p := <-l.began:
				seen[p] = true
			case <-time.After(aWhile):
				t.Fatalf("the server saw %v; the sandbox said:\n%s", seen, l.out)
			}
		}
		l.write(rest(first))
		l.out.await(t, "generation 2 is in force, 1 connection was closed")
		l.expect(l.ended, "/second")
		l.out.await(t, "second: ")
		select {
		case p := <-l.ended:
			t.Fatalf("%s ended, and it is allowed still", p)
		default:
		}
		if strings.Contains(l.out.String(), "over") {
			t.Errorf("both requests ended:\n%s", l.out)
		}
	})
}
