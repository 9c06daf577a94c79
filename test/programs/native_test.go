package programs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sallyport/internal/testkit"
)

const nativePolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [READABLE]
  read_write: [/dev/null, /tmp]
network_policies:
  native:
    endpoints:
      - {host: session.example, port: 7001, protocol: tcp, allowed_ips: [203.0.113.0/24]}
      - {host: refresh.example, port: 7001, protocol: tcp, pin: refresh, allowed_ips: [203.0.113.0/24]}
      - {host: direct.example, port: 7001, protocol: tcp, relay: direct, allowed_ips: [203.0.113.0/24]}
      - {host: inside.example, port: 7001, protocol: tcp}
      - {host: nowhere.example, port: 7001, protocol: tcp}
      - {host: inside.example, port: 80}
    binaries: [{path: "/usr/bin/python3*"}, {path: /usr/bin/curl}]
`

// nativeClient asks hosts who they are. For each it prints who answered, whom the
// socket says it is connected to, and how many bytes came back of those it sent.
const nativeClient = `import socket, sys, os
for line in sys.stdin:
    host = line.strip()
    try:
        s = socket.create_connection((host, 7001), timeout=20)
        f = s.makefile("rwb")
        who = f.readline().decode().strip()
        f.write(b"x" * 300000); f.flush(); s.shutdown(socket.SHUT_WR)
        print(host, who, s.getpeername()[0], len(f.read()), flush=True)
    except OSError as e:
        print(host, type(e).__name__, e.errno, flush=True)
`

// TestNative holds protocol tcp to its words: pinned names stay where they were,
// refreshed ones follow, direct ones are not relayed, and what leads to a refused
// address is an error of connect.
func TestNative(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.requireAll(t, "python3", "curl")
		s.policy = s.writePolicy(t, "native.yaml", nativePolicy)
		serveEcho(t, s, allowedAddr)
		serveEcho(t, s, deniedAddr)
		names := []string{"session.example", "refresh.example", "direct.example"}
		for _, n := range names {
			s.names.set(n, allowedAddr)
		}
		a := s.talk(t, nativeClient)
		for _, n := range names {
			got := a.ask(t, n)
			host, peer := got[1], strings.TrimPrefix(got[2], "::ffff:")
			direct := n == "direct.example"
			if host != allowedAddr || got[3] != "300000" || (peer == allowedAddr) != direct {
				t.Errorf("%s: %v, want %s, direct %v", n, got, allowedAddr, direct)
			}
		}
		for _, n := range names {
			s.names.set(n, deniedAddr) // moved: what is pinned does not follow
		}
		for n, want := range map[string]string{"session.example": allowedAddr, "direct.example": allowedAddr, "refresh.example": deniedAddr} {
			if got := a.ask(t, n); got[1] != want {
				t.Errorf("%s, moved: %v, want %s", n, got, want)
			}
		}
		s.names.set("refresh.example", "10.9.9.9") // judged anew
		for n, want := range map[string]string{
			"refresh.example": "PermissionError 13", "inside.example": "PermissionError 13", "nowhere.example": "OSError 113", "denied.example": "gaierror -2",
		} {
			if got := strings.TrimSpace(strings.Join(a.ask(t, n)[1:], " ")); got != want {
				t.Errorf("%s: %s, want %s", n, got, want)
			}
		}
		told := a.end(t)
		for _, n := range []string{"refresh.example", "inside.example", "denied.example"} {
			if c := strings.Count(told, "→ "+n); c != 1 {
				t.Errorf("%s was reported %d times, want once:\n%s", n, c, told)
			}
		}
		t.Run("another program", func(t *testing.T) {
			s.requireAll(t, "busybox")
			o := s.run(t, s.work(t), `busybox nc -w 5 direct.example 7001 </dev/null`)
			if strings.Contains(o.out, allowedAddr) || !strings.Contains(o.out, "ermission denied") || !strings.Contains(o.told, "direct.example") {
				t.Errorf("a program that no rule names: %v", o)
			}
		})
		t.Run("inside, by HTTP", func(t *testing.T) {
			for before, want := range map[string]string{unset: "403", "": "403"} {
				o := s.run(t, s.work(t), before+`curl -sS -o /dev/null -w '%{http_code}\n' http://inside.example/`)
				if strings.TrimSpace(o.out) != want || strings.Count(o.told, "→ GET "+insideHost) != 1 {
					t.Errorf("(%q first): %v, want %s and one denial", before, o, want)
				}
			}
		})
	})
}

// serveEcho says its own address first, and then what it is sent.
func serveEcho(t *testing.T, s *scene, addr string) {
	l := s.n.Listen(t, net.JoinHostPort(addr, "7001"))
	testkit.Accept(t, l, func(c net.Conn) {
		fmt.Fprintln(c, addr)
		io.Copy(c, c)
	})
}

func (s *nameServer) set(name, addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name] = netip.MustParseAddr(addr)
}

// words are what a program has said so far, while it goes on.
type words struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// agent is a Python program inside that answers line by line.
type agent struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	told   words
	cancel context.CancelFunc
}

func (s *scene) talk(t *testing.T, script string, flags ...string) *agent {
	t.Helper()
	work := s.work(t)
	fatal(t, os.WriteFile(filepath.Join(work, "agent.py"), []byte(script), 0o644))
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	a := &agent{cancel: cancel, cmd: exec.CommandContext(ctx, s.bin, s.args(work, "exec /usr/bin/python3 agent.py", flags)...)}
	a.cmd.Env, a.cmd.Stderr = []string{"PATH=" + s.path}, &a.told
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	var err error
	a.in, err = a.cmd.StdinPipe()
	fatal(t, err)
	out, err := a.cmd.StdoutPipe()
	fatal(t, err)
	a.out = bufio.NewScanner(out)
	fatal(t, a.cmd.Start())
	t.Cleanup(func() { cancel(); a.cmd.Wait() })
	return a
}

func (a *agent) ask(t *testing.T, line string) []string {
	t.Helper()
	if _, err := fmt.Fprintln(a.in, line); err != nil {
		t.Fatal(err)
	}
	if !a.out.Scan() {
		a.cancel()
		a.cmd.Wait()
		t.Fatalf("%s: no answer: %v\n%s", line, a.out.Err(), a.told.String())
	}
	f := strings.Fields(a.out.Text())
	for len(f) < 4 {
		f = append(f, "")
	}
	return f
}

// end lets the agent end and gives what sallyport said.
func (a *agent) end(t *testing.T) string {
	t.Helper()
	a.in.Close()
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("agent: %v\n%s", err, a.told.String())
	}
	return a.told.String()
}
