package programs

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/testkit"
)

const directPolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [READABLE]
  read_write: [/dev/null]
`

const directRule = `network_policies:
  bulk:
    endpoints: [{host: direct.example, ports: [7001, 7009], protocol: tcp, relay: RELAY, allowed_ips: [203.0.113.0/24]}]
    binaries: [{path: "/usr/bin/python3*"}]
`

// directClient holds one connection and does as it is told. It answers each line
// with one.
const directClient = `import socket, sys, os, array, ctypes
s = None
kept = socket.socketpair()
def do(verb):
    global s
    if verb == "open":
        s = socket.create_connection(("direct.example", 7001), timeout=20); s.settimeout(20)
        return "peer " + s.getpeername()[0]
    if verb == "refused":
        socket.socket().connect((socket.gethostbyname("direct.example"), 7009))
    if verb == "refused_later":
        r = socket.socket(); r.setblocking(False); r.connect_ex((socket.gethostbyname("direct.example"), 7009))
    if verb == "start":
        s = socket.socket(); s.setblocking(False); e = s.connect_ex((socket.gethostbyname("direct.example"), 7001))
        import select; select.select([], [s], [], 20); s.setblocking(True); s.settimeout(20)
        return "peer " + s.getpeername()[0]
    if verb == "ping":
        s.sendall(b"x" * 1000); n = 0
        while n < 1000:
            b = s.recv(4096)
            if not b: return "end"
            n += len(b)
        return "pong"
    if verb == "close": s.close()
    if verb == "fork":
        if os.fork() == 0:
            kept[0].recv(1); os._exit(0)
        s.close()
    if verb == "hide": kept[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))]); s.close()
    return "done"
for line in sys.stdin:
    try: print(line.strip(), do(line.strip()), "", "", flush=True)
    except OSError as e: print(line.strip(), type(e).__name__, e.errno, flush=True)
`

// directScene is one sandbox with a connection that is not relayed, and the server
// at its other end.
type directScene struct {
	*scene
	*agent
	t            *testing.T
	file, events string
	ended        chan struct{} // a connection that the server has seen the end of
}

func (s *scene) direct(t *testing.T) *directScene {
	s.requireAll(t, "python3")
	s.names.set("direct.example", allowedAddr)
	d := &directScene{scene: s, t: t, ended: make(chan struct{}, 16)}
	l := s.n.Listen(t, net.JoinHostPort(allowedAddr, "7001"))
	testkit.Accept(t, l, func(c net.Conn) {
		io.Copy(c, c)
		d.ended <- struct{}{}
	})
	d.file = "direct.yaml"
	s.policy = s.writePolicy(t, d.file, directPolicy+relay("direct"))
	public, err := os.MkdirTemp(s.dir, "events-")
	fatal(t, err)
	fatal(t, os.Chmod(public, 0o777))
	d.events = filepath.Join(public, "events.jsonl")
	d.agent = s.talk(t, directClient, "--events", d.events)
	return d
}

func relay(how string) string { return strings.Replace(directRule, "RELAY", how, 1) }

// change puts another policy in the place of the file, and waits until it is in force.
func (d *directScene) change(rule, said string) {
	d.t.Helper()
	next := d.writePolicy(d.t, d.file+".new", directPolicy+rule)
	fatal(d.t, os.Rename(next, d.policy))
	d.await("that the sandbox says "+said, func() bool { return strings.Contains(d.told.String(), said) })
}

func (d *directScene) await(what string, done func() bool) {
	d.t.Helper()
	for end := time.Now().Add(serverWait); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("waiting for %s; so far %q\n%s", what, d.said(), d.told.String())
		}
	}
}

func (d *directScene) do(verb, want string) {
	d.t.Helper()
	got := strings.TrimSpace(strings.Join(d.ask(d.t, verb)[1:], " "))
	if got != want {
		d.t.Fatalf("%s: %s, want %s\n%s", verb, got, want, d.told.String())
	}
}

func (d *directScene) serverSeesEnd() {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(serverWait):
		d.t.Fatal("the server has not seen the end")
	}
}

// said are the events about the server, in a few words each.
func (d *directScene) said() (out []string) {
	d.t.Helper()
	raw, err := os.ReadFile(d.events)
	fatal(d.t, err)
	for line := range strings.Lines(string(raw)) {
		var e struct {
			Class    int    `json:"class_uid"`
			Activity string `json:"activity_name"`
			Code     string `json:"status_code"`
			Dst      struct {
				Hostname string
				IP       string `json:"ip"`
				Port     int
			} `json:"dst_endpoint"`
			Traffic *struct {
				In  int64 `json:"bytes_in"`
				Out int64 `json:"bytes_out"`
			}
		}
		if !strings.HasSuffix(line, "\n") {
			continue // being written
		}
		fatal(d.t, json.Unmarshal([]byte(line), &e))
		if e.Class != 4001 || e.Dst.Hostname != "direct.example" {
			continue
		}
		one := fmt.Sprintf("%s %d", e.Activity, e.Dst.Port)
		if e.Code != "" {
			one += " " + e.Code
		}
		if e.Traffic != nil && e.Traffic.Out == 1000 && (e.Traffic.In == 1000 || e.Traffic.In == 1001) {
			one += " 1000"
		}
		if e.Dst.IP != allowedAddr {
			one += " at " + e.Dst.IP
		}
		out = append(out, one)
	}
	return out
}

func (d *directScene) expect(want ...string) {
	d.t.Helper()
	d.await(fmt.Sprint("the events ", want), func() bool { return slices.Equal(d.said(), want) })
}

// direct are who starts sallyport: root, and any user.
func eachStarter(t *testing.T, s *scene, f func(t *testing.T)) {
	for name, as := range map[string]*syscall.Credential{"root": nil, "nobody": {Uid: testkit.NobodyID, Gid: testkit.NobodyID}} {
		t.Run(name, func(t *testing.T) {
			s.as = as
			defer func() { s.as = nil }()
			f(t)
		})
	}
}

// TestDirect: a connection with relay: direct is held to the policy like any other.
// Its beginning, its failure and its end are events, each once; the server sees the
// agent's close at once; and a policy that does not allow it ends it, whoever has it.
func TestDirect(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		eachStarter(t, s, func(t *testing.T) {
			t.Run("lives and ends", func(t *testing.T) {
				d := s.direct(t)
				d.do("open", "peer "+mapped(allowedAddr)) // control: the socket's own peer, not the proxy
				d.do("ping", "pong")
				d.do("close", "done")
				d.serverSeesEnd()
				want := []string{"Open 7001", "Close 7001 1000"}
				d.expect(want...)
				d.do("start", "peer "+allowedAddr)
				d.do("close", "done")
				want = append(want, "Open 7001", "Close 7001")
				d.expect(want...)
				d.do("refused", "ConnectionRefusedError 111")
				want = append(want, "Fail 7009 upstream_unreachable")
				d.expect(want...)
				d.do("refused_later", "done")
				want = append(want, "Fail 7009 upstream_unreachable")
				d.expect(want...)
				d.do("open", "peer "+mapped(allowedAddr))
				d.do("ping", "pong")
				d.agent.end(t) // the sandbox is over, and the connection with it
				d.expect(append(want, "Open 7001", "Close 7001 1000")...)
			})
			for how, rule := range map[string]string{"revoked": "", "to be relayed": relay("proxy")} {
				t.Run(how, func(t *testing.T) {
					d := s.direct(t)
					d.do("open", "peer "+mapped(allowedAddr))
					d.do("ping", "pong")
					d.change(relay("direct")+"    # nothing else\n", "generation 2 is in force\n")
					d.do("ping", "pong")
					d.change(rule, "generation 3 is in force, 1 connection was closed")
					d.serverSeesEnd()
					if got := d.ask(t, "ping")[1]; got != "end" && got != "BrokenPipeError" && got != "ConnectionResetError" {
						t.Errorf("the connection carried something after it was refused: %s", got)
					}
					d.await("the end", func() bool {
						return slices.ContainsFunc(d.said(), func(e string) bool { return strings.HasPrefix(e, "Close 7001 policy_changed") })
					})
				})
			}
			t.Run("revoked, another process has it", func(t *testing.T) {
				d := s.direct(t)
				d.do("open", "peer "+mapped(allowedAddr))
				d.do("fork", "done")
				d.change("", "generation 2 is in force, 1 connection was closed")
				d.serverSeesEnd()
				d.do("open", "gaierror -2")
			})
			t.Run("revoked and hidden", func(t *testing.T) {
				d := s.direct(t)
				d.do("open", "peer "+mapped(allowedAddr))
				d.do("hide", "done")
				d.change("", "could not be closed as the policy wants it, so the sandbox was ended")
				d.serverSeesEnd()
				d.cmd.Wait()
				raw, err := os.ReadFile(d.events)
				fatal(t, err)
				if n := strings.Count(string(raw), `"direct_connection_hidden"`); n == 0 {
					t.Errorf("no finding says so:\n%s", raw)
				}
			})
		})
	})
}

// mapped is an IPv4 address as an IPv6 socket names it: getaddrinfo gives the IPv6
// one first.
func mapped(a string) string { return "::ffff:" + a }
