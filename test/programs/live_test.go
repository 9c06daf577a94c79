package programs

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"sallyport/internal/testkit"
)

// livePolicy has a WAY to each kind of thing that stays open; KEPT stays in
// every policy.
const livePolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [READABLE]
  read_write: [/dev/null]
network_policies:
  kept:
    endpoints: [{host: kept.example, port: 443, protocol: rest, access: read-only, allowed_ips: [203.0.113.0/24]}]
    binaries: [{path: "/**"}]
`

const liveWays = `  live:
    endpoints:
      - {host: web.example, port: 443, protocol: rest, access: read-only, allowed_ips: [203.0.113.0/24]}
      - {host: web.example, port: 443, protocol: websocket, path: /ws, access: read-only, allowed_ips: [203.0.113.0/24]}
      - {host: grpc.example, port: 443, protocol: rest, rules: [{allow: {method: POST, path: "/live.Live/*"}}], allowed_ips: [203.0.113.0/24]}
      - {host: raw.example, port: 443, allowed_ips: [203.0.113.0/24]}
      - {host: tcp.example, port: 7001, protocol: tcp, allowed_ips: [203.0.113.0/24]}
    binaries: [{path: "/**"}]
`

// narrowWays still know the hosts whose requests are read.
const narrowWays = `  live:
    endpoints:
      - {host: web.example, port: 443, protocol: rest, rules: [{allow: {method: GET, path: /other}}], allowed_ips: [203.0.113.0/24]}
      - {host: web.example, port: 443, protocol: websocket, path: /ws, rules: [{allow: {method: GET, path: /ws/other}}], allowed_ips: [203.0.113.0/24]}
      - {host: grpc.example, port: 443, protocol: rest, rules: [{allow: {method: POST, path: "/other.Other/*"}}], allowed_ips: [203.0.113.0/24]}
    binaries: [{path: "/**"}]
`

const tcpReader = `python3 -c '
import socket
s = socket.create_connection(("tcp.example", 7001))
try:
    while s.recv(4096): pass
    print("ended as if whole")
except ConnectionResetError:
    print("reset")
'`

const policyChanged = `\{"error":"policy_denied".*"reason":"policy_changed".*`

// stayers are the programs, what each says when it has begun, and all that it has said
// at its end.
var stayers = []struct{ name, script, begun, said string }{
	{"HTTP/1.1 events", `curl -sSN --http1.1 https://web.example/events`, "data: 0\n", `data: 0\n(?s:.*)curl: \(56\) .*`},
	{"HTTP/2 events", `curl -sSN --http2 https://web.example/events`, "data: 0\n", `data: 0\n(?s:.*)curl: \((18|92)\) .*`},
	{"HTTP/1.1 waiting", `curl -sS --http1.1 -w 'status %{http_code}' https://web.example/wait`, "", policyChanged + `\nstatus 403`},
	{"HTTP/2 waiting", `curl -sS --http2 -w 'status %{http_code}' https://web.example/wait`, "", policyChanged + `\nstatus 403`},
	{"node http2", unset + `node TOOLS/npm/live.mjs h2 web.example`, "data\n", `data\n(goaway 0\nstream 2\n|stream 2\ngoaway 0\n)closed\n`},
	{"WebSocket", unset + `node TOOLS/npm/live.mjs ws web.example`, "message hello\n", `message hello\nclosed 1008 the policy has changed.*`},
	{"gRPC stream", unset + `node TOOLS/npm/live.mjs watch grpc.example`, "message beat\n", `message beat\ngrpc 7 sallyport: the policy has changed\nended\n`},
	{"gRPC waiting", unset + `node TOOLS/npm/live.mjs wait grpc.example`, "", `grpc 7 .*`},
	{"TLS that is not read", `curl -sSNk --http1.1 https://raw.example/events`, "data: 0\n", `data: 0\n(?s:.*)curl: \(56\) .*reset.*`},
	{"TCP", unset + tcpReader, "", `reset\n`},
	{"still allowed", `curl -sSN https://kept.example/finish`, "data: 0\n", `data: 0\n(?s:.*)finished\n`},
}

// TestNewPolicyEndsWhatRuns: each kind of thing that stays open is ended by a
// policy that does not allow it any more, in the words of its protocol, and what
// is allowed goes on to its end.
func TestNewPolicyEndsWhatRuns(t *testing.T) {
	modules := peers(t)
	inScene(t, func(t *testing.T, s *scene) {
		s.requireAll(t, "node", "curl", "python3")
		o := serveLive(t, s, modules)
		for name, ways := range map[string]string{"gone": "", "narrowed": narrowWays} {
			t.Run(name, func(t *testing.T) { o.change(t, livePolicy+ways) })
		}
	})
}

// liveOrigin is the servers, and what began at them.
type liveOrigin struct {
	s      *scene
	root   string // file
	grpc   string // file with what the gRPC server says
	mu     sync.Mutex
	began  int
	finish chan struct{} // closed: what waits for it ends
}

func serveLive(t *testing.T, s *scene, modules string) *liveOrigin {
	o := &liveOrigin{s: s, root: filepath.Join(s.dir, "root.pem"), finish: make(chan struct{})}
	ca := testkit.NewAuthority(t)
	fatal(t, os.WriteFile(o.root, ca.PEM, 0o644))
	copyTree(t, modules, filepath.Join(s.dir, "npm"))
	cert := ca.Leaf(t, "web.example", "kept.example", "raw.example")
	for _, n := range []string{"web.example", "kept.example", "raw.example", "tcp.example"} {
		s.names.set(n, allowedAddr)
	}
	s.names.set("grpc.example", deniedAddr)
	testkit.Serve(t, testkit.Secure(s.n.Listen(t, net.JoinHostPort(allowedAddr, "443")), cert), o)
	o.grpc = s.startNode(t, deniedAddr, ca.Leaf(t, "grpc.example"), filepath.Join(s.dir, "npm", "live.mjs"), "serve")
	serveTicks(t, s, o)
	return o
}

// ServeHTTP answers with events, or not at all, until it is told.
func (o *liveOrigin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	finish := o.finish
	o.mu.Unlock()
	switch r.URL.Path {
	case "/ws":
		if c, err := websocket.Accept(w, r, nil); err == nil {
			c.Write(r.Context(), websocket.MessageText, []byte("hello"))
			o.begin()
			c.Read(r.Context())
			c.CloseNow()
		}
		return
	case "/wait":
		o.begin()
		<-r.Context().Done()
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		fmt.Fprintf(w, "data: %d\n\n", i)
		w.(http.Flusher).Flush()
		if i == 0 {
			o.begin()
		}
		select {
		case <-r.Context().Done():
			return
		case <-finish:
			if r.URL.Path == "/finish" {
				io.WriteString(w, "finished\n")
				return
			}
			finish = nil
		case <-tick.C:
		}
	}
}

// serveTicks sends bytes without an end to whoever connects.
func serveTicks(t *testing.T, s *scene, o *liveOrigin) {
	l := s.n.Listen(t, net.JoinHostPort(allowedAddr, "7001"))
	testkit.Accept(t, l, func(c net.Conn) {
		for i := 0; ; i++ {
			if _, err := io.WriteString(c, "tick\n"); err != nil {
				return
			}
			if i == 0 {
				o.begin()
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}

func (o *liveOrigin) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.began++
}

// running is how many things have begun, the gRPC server's too.
func (o *liveOrigin) running(t *testing.T) int {
	b, err := os.ReadFile(o.grpc)
	fatal(t, err)
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.began + strings.Count(string(b), "\n")
}

// begun says whether each program has said that it has got something from its server.
func begun(work string) bool {
	for i, c := range stayers {
		if b, err := os.ReadFile(filepath.Join(work, fmt.Sprintf("out-%d", i))); err != nil || !strings.Contains(string(b), c.begun) {
			return false
		}
	}
	return true
}

// change runs all the programs in one sandbox, puts another policy in force and
// looks at how each ended.
func (o *liveOrigin) change(t *testing.T, to string) {
	s := o.s
	s.policy = s.writePolicy(t, "live.yaml", livePolicy+liveWays)
	before := o.running(t)
	var script strings.Builder
	for i, c := range stayers {
		fmt.Fprintf(&script, "( %s ) > out-%d 2>&1 &\n", strings.TrimSpace(c.script), i)
	}
	work, events := s.work(t), filepath.Join(t.TempDir(), "events")
	ended := make(chan outcome)
	go func() {
		ended <- s.run(t, work, script.String()+"wait", "--upstream-ca", o.root, "--events", events)
	}()
	for end := time.Now().Add(serverWait); o.running(t) < before+len(stayers) || !begun(work); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d of %d have begun, and have got something: %v", o.running(t)-before, len(stayers), begun(work))
			break
		}
	}
	s.writePolicy(t, "live.yaml", to)
	gone := eventsOf(t, events, len(stayers)-1)
	o.mu.Lock()
	close(o.finish)
	o.finish = make(chan struct{})
	o.mu.Unlock()
	all := <-ended
	for i, c := range stayers {
		b, err := os.ReadFile(filepath.Join(work, fmt.Sprintf("out-%d", i)))
		if err != nil || !regexp.MustCompile(`\A`+c.said+`\s*\z`).Match(b) {
			t.Errorf("%s said %v\n… %s\nwant %s", c.name, err, b[max(0, len(b)-400):], c.said)
		}
	}
	if all.status != 0 || gone != len(stayers)-1 {
		t.Errorf("%d events of an end by the policy, want %d: %v", gone, len(stayers)-1, all)
	}
}

// eventsOf waits for n events that say that the policy has ended something.
func eventsOf(t *testing.T, file string, n int) (seen int) {
	t.Helper()
	for end := time.Now().Add(serverWait); ; time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(file)
		fatal(t, err)
		seen = 0
		for line := range strings.Lines(string(b)) {
			var e any
			if json.Unmarshal([]byte(line), &e) == nil && (strings.Contains(line, "policy_changed") || strings.Contains(line, "websocket_1008")) {
				seen++
			}
		}
		if seen >= n || time.Now().After(end) {
			return seen
		}
	}
}
