package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/internal/egress/identity"
	"sallyport/internal/egress/l7/websocket"
	"sallyport/internal/event"
)

// Server carries the connections of one sandbox. It is safe for concurrent use.
type Server struct {
	decider   atomic.Pointer[Decider]
	resolver  Resolver
	dialer    Dialer
	inspector Inspector
	secrets   Credentials
	local     Local
	events    event.Sink
	allowed   bool // events is told of requests that a rule has allowed
	denialID  func() string
	self      netip.AddrPort
	own       func(netip.Addr) bool
	now       func() time.Time
	limits    Limits

	conns       registry
	requests    chan struct{} // a token for each connection that carries plain HTTP
	inspections chan struct{} // and for each that carries HTTP in TLS that ends here
	turned      chan struct{} // and for each that is told that there are too many
	held        atomic.Int64  // bytes of bodies
	messages    *websocket.Budget
	pipes       pipes
	pool        pool
	readers     sync.Pool // of *bufio.Reader that hold a head
	streams     streams
}

// New makes a Server, or says which option is wrong.
func New(o Options) (*Server, error) {
	limits, err := o.Limits.withDefaults()
	switch {
	case err != nil:
		return nil, err
	case o.Decider == nil:
		return nil, errors.New("proxy: no decider")
	case o.Resolver == nil:
		return nil, errors.New("proxy: no resolver")
	}
	s := &Server{
		resolver: o.Resolver, dialer: o.Dialer, inspector: o.Inspector, secrets: o.Secrets, local: o.Local, events: o.Events, allowed: !o.Quiet, denialID: o.DenialID,
		self: o.Self, own: o.OwnAddr, now: o.Now, limits: limits,
		requests: make(chan struct{}, limits.Requests), inspections: make(chan struct{}, limits.Inspected),
		turned: make(chan struct{}, maxTurned),
	}
	s.readers.New = func() any { return bufio.NewReaderSize(nil, limits.RequestHead+1) }
	s.messages = websocket.NewBudget(messageBudget)
	s.pool.init(limits)
	s.streams.init(limits)
	if s.dialer == nil {
		s.dialer = tcpDialer{}
	}
	if s.own == nil {
		s.own = ownAddress
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.conns.init(limits)
	s.SetDecider(o.Decider)
	return s, nil
}

// SetDecider puts another policy in force for every decision from now on. A
// connection keeps the decision it was given; CloseDisallowed ends those that
// would get another one.
func (s *Server) SetDecider(d Decider) {
	s.decider.Store(&d)
	s.pool.retire(&d)
	s.streams.retire()
}

// CloseDisallowed ends every request and tunnel for whose query still is false,
// and every request that the decider in force would not allow, and returns their
// number. A request ends in words of its protocol, a tunnel, which has none that
// are known here, is reset. Call it after SetDecider: a connection that was decided
// before and is established after is decided again.
func (s *Server) CloseDisallowed(still func(Query) bool) int {
	n := 0
	by := *s.decider.Load()
	for _, l := range s.conns.all() {
		running := l.running()
		for _, a := range running {
			if (!still(a.q) || !s.allows(by, a)) && l.revoke(a) {
				n++
			}
		}
		if q := l.query.Load(); len(running) == 0 && q != nil && !still(*q) && l.close(endPolicy) {
			n++
		}
	}
	return n
}

// allows tells whether a decider allows a request that runs; for a websocket it
// is the upgrade, and how the messages are read.
func (s *Server) allows(by Decider, a *asking) bool {
	if a.r.Method == "" {
		return true // no rule was asked, and the connection is allowed
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	d, err := by.DecideRequest(ctx, a.q, a.r)
	return err == nil && d.Allow && (a.as == nil || a.as(d.Endpoint))
}

// Close ends every connection and gives up what the Server holds. Connections
// return from ServeConn on their own; their owner waits for them.
func (s *Server) Close() {
	s.conns.stop()
	s.streams.close()
	s.pool.close()
	s.pipes.close()
}

// ServeConn carries one connection to the proxy itself: a CONNECT, or HTTP
// requests with absolute URIs. It takes ownership of c and returns when c is
// closed, which is soon after ctx is done. conn is what the ledger booked.
func (s *Server) ServeConn(ctx context.Context, c *net.TCPConn, conn *identity.Connection) {
	s.serve(ctx, c, conn, conn.Process, (*session).proxied)
}

// ServeCaptured carries one connection that was meant for wanted and led here.
// name is what the policy DNS has given that address out for, or empty.
// Ownership and life are as for ServeConn.
func (s *Server) ServeCaptured(ctx context.Context, c *net.TCPConn, conn *identity.Connection, name string, wanted netip.AddrPort) {
	s.serve(ctx, c, conn, conn.Process, func(x *session) step { return x.captured(name, wanted) })
}

// session is one connection of the agent.
type session struct {
	*Server
	ctx     context.Context
	client  *net.TCPConn
	wire    conn // what HTTP is spoken on: client, or TLS on it
	caller  Caller
	process *identity.Process // identified; nil until the first decision
	who     event.Who
	live    *live
	last    atomic.Pointer[verdict] // the last one that allowed

	// Of a client that speaks HTTP/2:
	to       *target
	handlers sync.RWMutex // held for reading by each
	over     bool
}

// step is a part of a connection's life, and returns the next one. Long waits are
// at the beginning of one: what was needed before them, buffers and the deep part
// of the stack, is free meanwhile.
type step func() step

func (s *Server) serve(ctx context.Context, c *net.TCPConn, caller Caller, seen *identity.Process, run func(*session) step) {
	x := s.newSession(ctx, c, caller, seen)
	defer c.Close()
	if !s.conns.add(x.live) {
		x.crowded()
		return
	}
	defer s.conns.remove(x.live)
	defer x.survive()
	s.conns.follow(ctx)
	for next := run(x); next != nil; {
		next = next()
	}
}

func (s *Server) newSession(ctx context.Context, c *net.TCPConn, caller Caller, seen *identity.Process) *session {
	return &session{Server: s, ctx: ctx, client: c, wire: c, caller: caller, who: whoIs(seen), live: &live{ctx: ctx, client: c, started: s.now()}}
}

// maxTurned is how many connections that are too many are told so at once: it takes
// a moment, and a descriptor meanwhile. Others are reset.
const maxTurned = 64

func (x *session) crowded() {
	no := &denial{code: tooMany, detail: fmt.Sprintf("%d connections are open, which is the limit", x.limits.Connections)}
	select {
	case x.turned <- struct{}{}:
		defer func() { <-x.turned }()
		x.refuse(intent{}, no, formHTTP)
	default:
		x.refuse(intent{}, no, formReset)
	}
}

// survive turns a panic, which is a bug of ours, into the end of one connection.
func (x *session) survive() {
	if p := recover(); p != nil {
		x.live.close(endBug)
		x.panicked(p, debug.Stack())
	}
}

// noted notes that a request which was judged runs; end is called when it is allowed
// no longer. CloseDisallowed sees it from here on; a policy that took force between
// the two judges it now.
func (x *session) noted(r *request, v *verdict, end func()) (a *asking, no *denial) {
	a = &asking{q: *v.query, r: r.about, end: end}
	x.live.ask(a)
	if x.decider.Load() != v.by {
		*v, no = x.judge(r)
	}
	return a, no
}

func (x *session) emit(e event.Event) {
	if x.events != nil {
		x.events(e)
	}
}

func whoIs(p *identity.Process) event.Who {
	if p == nil {
		return event.Who{}
	}
	w := event.Who{PID: p.PID, Exe: p.Exe, SHA256: p.SHA256}
	if len(p.Ancestors) > 0 {
		w.Ancestors = make([]event.Binary, len(p.Ancestors))
	}
	for i, a := range p.Ancestors {
		w.Ancestors[i] = event.Binary{Path: a.Path, SHA256: a.SHA256}
	}
	return w.Shared()
}
