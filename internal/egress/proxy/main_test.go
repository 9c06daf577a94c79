package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport/internal/egress/identity"
	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
	"sallyport/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = time.Minute

// rules is a policy: what is allowed, by host:port.
type rules map[string]Decision

func (r rules) Decide(_ context.Context, q Query) (Decision, error) {
	key := fmt.Sprintf("%s:%d", q.Host, q.Port)
	if d, ok := r[key]; ok {
		d.Allow, d.Policy, d.Generation = true, "test.yaml", 1
		if d.Endpoint == nil {
			d.Endpoint = &policy.Endpoint{Host: q.Host}
		}
		return d, nil
	}
	return Decision{
		Reason: "no_policy_for_host", Detail: fmt.Sprintf("no rule for host %q", q.Host), Policy: "test.yaml", Generation: 1,
		Missing: &Missing{Host: q.Host, Port: q.Port, Binary: q.Process.Exe},
	}, nil
}

// Endpoint is the only one.
func (r rules) Endpoint(ctx context.Context, q Query, path string) (*policy.Endpoint, bool) {
	d, _ := r.Decide(ctx, q)
	if !d.Allow || d.Endpoint.Path != "" && !match.Path(d.Endpoint.Path, path) {
		return nil, false
	}
	return d.Endpoint, true
}

// DecideRequest knows method and path, which is what this package adds.
func (r rules) DecideRequest(ctx context.Context, q Query, req policy.Request) (Decision, error) {
	d, err := r.Decide(ctx, q)
	if !d.Allow || err != nil {
		return d, err
	}
	fits := func(m policy.Match) bool {
		return (m.Method == "" || m.Method == "*" || m.Method == req.Method) && (m.Path == "" || match.Path(m.Path, req.Path))
	}
	d.Allow = d.Endpoint.Access == "full" || d.Endpoint.Access == "read-only" && req.Method == "GET"
	for _, a := range d.Endpoint.Rules {
		d.Allow = d.Allow || fits(a.Allow)
	}
	for _, m := range d.Endpoint.DenyRules {
		d.Allow = d.Allow && !fits(m)
	}
	if !d.Allow {
		d.Reason, d.Detail = "no_rule_for_request", fmt.Sprintf("no rule allows %s %s", req.Method, req.Path)
	}
	return d, nil
}

type callerFunc func() (*identity.Process, error)

func (f callerFunc) Identify(context.Context) (*identity.Process, error) { return f() }

var curl = &identity.Process{PID: 42, Exe: "/usr/bin/curl", SHA256: "00ff", Ancestors: []identity.Binary{{Path: "/bin/sh"}}}

// world is a proxy on loopback with names, addresses and servers around it.
type world struct {
	t      testing.TB
	server *Server
	caller callerFunc
	ctx    context.Context
	end    func()

	mu       sync.Mutex
	events   []event.Event
	names    map[string][]netip.Addr
	resolved []string
	servers  map[netip.AddrPort]string // where an address really leads
	dialled  []netip.AddrPort
	denials  int
	changed  chan struct{}
}

func (w *world) Resolve(_ context.Context, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resolved = append(w.resolved, host)
	if a, ok := w.names[host]; ok {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (w *world) Dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, to)
	at, ok := w.servers[to]
	w.mu.Unlock()
	if !ok {
		at = to.String()
		if !to.Addr().IsLoopback() {
			return nil, errors.New("connection refused")
		}
	}
	if at == "hang" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return tcpDialer{}.Dial(ctx, netip.MustParseAddrPort(at))
}

// newWorld makes a proxy with these rules. Options may be changed before.
func newWorld(t testing.TB, d Decider, change ...func(*Options)) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{
		t: t, ctx: ctx, caller: func() (*identity.Process, error) { return curl, nil },
		names: map[string][]netip.Addr{}, servers: map[netip.AddrPort]string{}, changed: make(chan struct{}, 1),
	}
	o := Options{
		Decider: d, Resolver: w, Dialer: w, OwnAddr: func(netip.Addr) bool { return false },
		Events: func(e event.Event) {
			w.mu.Lock()
			w.events = append(w.events, e)
			w.mu.Unlock()
			select {
			case w.changed <- struct{}{}:
			default:
			}
		},
		DenialID: func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.denials++
			return fmt.Sprintf("d%03d", w.denials)
		},
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	if w.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	w.end = cancel
	t.Cleanup(func() { cancel(); w.server.Close() })
	return w
}

// origin starts a TCP server that handles each connection, and gives it names
// that lead to a public address of its own.
func (w *world) origin(handle func(*net.TCPConn), hosts ...string) netip.AddrPort {
	w.t.Helper()
	l := listen(w.t)
	testkit.Accept(w.t, l, func(c net.Conn) { handle(c.(*net.TCPConn)) })
	w.t.Cleanup(func() { w.end(); w.server.Close() })
	at := l.Addr().(*net.TCPAddr).AddrPort()
	w.mu.Lock()
	defer w.mu.Unlock()
	public := netip.AddrFrom4([4]byte{93, 184, 216, byte(len(w.servers) + 1)})
	for _, h := range hosts {
		host, port, _ := strings.Cut(h, ":")
		w.names[host] = []netip.Addr{public}
		w.servers[netip.MustParseAddrPort(public.String()+":"+port)] = at.String()
	}
	return at
}

// web is origin with an HTTP handler.
func (w *world) web(h http.HandlerFunc, hosts ...string) {
	w.t.Helper()
	l := listen(w.t)
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	w.t.Cleanup(func() { w.end(); s.Close(); <-done })
	w.mu.Lock()
	defer w.mu.Unlock()
	public := netip.AddrFrom4([4]byte{93, 184, 217, byte(len(w.servers) + 1)})
	for _, host := range hosts {
		name, port, _ := strings.Cut(host, ":")
		w.names[name] = []netip.Addr{public}
		w.servers[netip.MustParseAddrPort(public.String()+":"+port)] = l.Addr().String()
	}
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// client is a connection to the proxy.
type client struct {
	*net.TCPConn
	br *bufio.Reader
	t  testing.TB
}

// pair is a TCP connection over loopback.
func pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l := listen(t)
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), s
}

func (w *world) serve(run func(*session) step, said string) *client {
	w.t.Helper()
	a, b := pair(w.t)
	if _, err := io.WriteString(a, said); err != nil {
		w.t.Fatalf("sending: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.server.serve(w.ctx, b, w.caller, curl, run)
	}()
	w.t.Cleanup(func() { a.Close(); w.end(); <-done })
	a.SetDeadline(time.Now().Add(patience))
	return &client{a, bufio.NewReader(a), w.t}
}

// open connects to the proxy.
func (w *world) open() *client { return w.saying("") }

// saying is open for a client whose first words are there before the proxy looks: no time
// that the proxy has for them is too short on a machine that is busy.
func (w *world) saying(said string) *client { return w.serve((*session).proxied, said) }

// capture connects to an address through the gate's hands.
func (w *world) capture(name, to string) *client {
	return w.serve(func(x *session) step { return x.captured(name, netip.MustParseAddrPort(to)) }, "")
}

func (c *client) send(s string) *client {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
	return c
}

// answer reads one HTTP answer with its body.
func (c *client) answer(method string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("reading the answer: %v", err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatalf("reading the body: %v (%q)", err, b)
	}
	return r, string(b)
}

// connect opens a tunnel.
func (w *world) connect(target string) *client {
	w.t.Helper()
	c := w.open().send("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
	r, err := http.ReadResponse(c.br, &http.Request{Method: "CONNECT"})
	if err != nil || r.StatusCode != 200 {
		w.t.Fatalf("CONNECT %s: %v, %v", target, r, err)
	}
	return c
}

// all reads until the end.
func (c *client) all() string {
	c.t.Helper()
	b, err := io.ReadAll(c.br)
	if err != nil {
		c.t.Fatalf("reading to the end: %v (%q)", err, b)
	}
	return string(b)
}

// event waits for the first event that a test accepts.
func (w *world) event(ok func(event.Event) bool) event.Event {
	w.t.Helper()
	late := time.After(patience)
	for {
		w.mu.Lock()
		for _, e := range w.events {
			if ok(e) {
				w.mu.Unlock()
				return e
			}
		}
		w.mu.Unlock()
		select {
		case <-w.changed:
		case <-late:
			w.t.Fatalf("no such event among %d", len(w.events))
		}
	}
}

// denied waits for the event of a denial.
func (w *world) denied() event.Event {
	w.t.Helper()
	return w.event(func(e event.Event) bool { return e.DispositionID == event.Blocked })
}

func echo(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}
