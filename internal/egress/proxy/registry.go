package proxy

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/internal/policy"
)

// registry knows the connections that are open.
type registry struct {
	idle, lifetime, tick time.Duration
	max                  int

	mu    sync.Mutex
	open  map[*live]struct{}
	timer *time.Timer // runs while something is open
	shut  bool
	ends  map[context.Context]func() bool // whose end is waited for, and how not to
}

// The ends of a connection that are not its own.
const (
	endIdle     = "idle_timeout"
	endLifetime = "lifetime_reached"
	endPolicy   = "policy_changed"
	endShutdown = "shutdown"
	endBug      = "bug"
)

// live is an open connection as the registry sees it.
type live struct {
	ctx     context.Context
	client  *net.TCPConn
	started time.Time
	moved   atomic.Int64          // bytes, both ways
	query   atomic.Pointer[Query] // what it was allowed, while something flows

	mu       sync.Mutex
	upstream *net.TCPConn
	asked    []*asking // requests that run
	end      string    // why it was closed from outside
	revoked  bool      // its request is not allowed any more

	seen  int64 // of moved; the sweeper's
	quiet time.Duration
	age   time.Duration
}

// attach makes up part of the connection, and closes it if that has ended.
func (l *live) attach(up *net.TCPConn) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != "" || l.revoked {
		up.Close()
		return false
	}
	l.upstream = up
	return true
}

// detach takes the server's connection off again, because its next use is
// another connection's.
func (l *live) detach() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.upstream = nil
	l.query.Store(nil)
}

// asking is a request that was allowed and runs.
type asking struct {
	q   Query
	r   policy.Request
	end func()                      // when it is allowed no longer; called with the lock of live held
	as  func(*policy.Endpoint) bool // of a websocket: it is read as this endpoint wants it
}

// ask notes a request that runs, until it is answered.
func (l *live) ask(a *asking) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, a)
}

func (l *live) answered(a *asking) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.asked, a); i >= 0 {
		l.asked = slices.Delete(l.asked, i, i+1)
	}
}

func (l *live) running() []*asking {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked)
}

// revoke ends a request; it is false if that has been answered.
func (l *live) revoke(a *asking) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	runs := slices.Contains(l.asked, a)
	if runs {
		a.end()
	}
	return runs
}

// hangUp takes the server away from the request of an HTTP/1 connection: what
// waits for it can then tell the client so, which has a moment to hear it. The
// lock is held.
func (l *live) hangUp() {
	l.revoked = true
	l.client.SetWriteDeadline(time.Now().Add(lingerTime))
	if l.upstream != nil {
		l.upstream.Close()
	}
}

func (l *live) isRevoked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revoked
}

// close ends the connection from outside; it is false if that was done before.
// What a new policy ends is broken off, so that it does not look whole.
func (l *live) close(why string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != "" {
		return false
	}
	l.end = why
	for _, c := range []*net.TCPConn{l.client, l.upstream} {
		if c == nil {
			continue
		}
		if why == endPolicy {
			c.SetLinger(0)
		}
		c.Close()
	}
	return true
}

func (l *live) endedBy() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

func (r *registry) init(l Limits) {
	r.idle, r.lifetime, r.max = l.Idle, l.Lifetime, l.Connections
	r.tick = max(time.Millisecond, min(l.Idle/8, l.Lifetime/8, time.Minute))
	r.open = map[*live]struct{}{}
	r.ends = map[context.Context]func() bool{}
}

// follow has the connections of a context closed when it ends. They share one
// context, so that one wait does for all.
func (r *registry) follow(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends[ctx] != nil || r.shut {
		return
	}
	r.ends[ctx] = context.AfterFunc(ctx, func() {
		r.mu.Lock()
		delete(r.ends, ctx) // who comes later waits anew, for what has ended
		r.mu.Unlock()
		for _, l := range r.all() {
			if l.ctx == ctx {
				l.close(endShutdown)
			}
		}
	})
}

func (r *registry) add(l *live) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut || len(r.open) >= r.max {
		return false
	}
	r.open[l] = struct{}{}
	if r.timer == nil {
		r.timer = time.AfterFunc(r.tick, r.sweep)
	}
	return true
}

func (r *registry) remove(l *live) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, l)
}

func (r *registry) all() []*live {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*live, 0, len(r.open))
	for l := range r.open {
		out = append(out, l)
	}
	return out
}

func (r *registry) stop() {
	r.mu.Lock()
	r.shut = true
	if r.timer != nil {
		r.timer.Stop()
	}
	for _, stop := range r.ends {
		stop()
	}
	r.mu.Unlock()
	for _, l := range r.all() {
		l.close(endShutdown)
	}
}

// sweep closes what was quiet or lived for too long. One timer looks at how far
// the counters got, so that moving bytes costs no deadlines.
func (r *registry) sweep() {
	for _, l := range r.all() {
		moved := l.moved.Load()
		l.age += r.tick
		l.quiet += r.tick
		if moved != l.seen {
			l.seen, l.quiet = moved, 0
		}
		switch {
		case l.quiet >= r.idle:
			l.close(endIdle)
		case l.age >= r.lifetime:
			l.close(endLifetime)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) == 0 || r.shut {
		r.timer = nil
		return
	}
	r.timer.Reset(r.tick)
}
