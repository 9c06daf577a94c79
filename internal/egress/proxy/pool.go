package proxy

import (
	"io"
	"sync"
	"time"
)

// poolKey is what two requests must have in common to be sent over one
// connection: the server that was judged and verified, and who judged it. The
// pool is one sandbox's.
type poolKey struct {
	host string
	port uint16
	tls  bool
	by   *Decider
}

// pool keeps idle connections to servers, and those that carry many requests at
// once. It is bounded, and empty some time after the last request.
type pool struct {
	max  int
	keep time.Duration

	mu     sync.Mutex
	idle   map[poolKey][]*upstream // the last one in is the first one out
	shared map[poolKey][]*multiplexed
	h2     map[poolKey]bool // what servers were seen to speak
	n      int
	timer  *time.Timer // runs while something is kept
	shut   bool
}

// maxSpoken bounds what is remembered of servers; then all of it is forgotten.
const maxSpoken = 1024

func (p *pool) init(l Limits) {
	p.max, p.keep = l.Pooled, l.KeepAlive
	p.idle, p.shared, p.h2 = map[poolKey][]*upstream{}, map[poolKey][]*multiplexed{}, map[poolKey]bool{}
}

// take gives an idle connection to its only user; nil if there is none.
func (p *pool) take(k poolKey) *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[k]
	if len(list) == 0 {
		return nil
	}
	up := list[len(list)-1]
	if p.idle[k] = list[:len(list)-1]; len(list) == 1 {
		delete(p.idle, k)
	}
	p.n--
	return up
}

// put takes a connection that can carry another request. It owns it.
func (p *pool) put(up *upstream) {
	up.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		up.conn.Close()
		return
	}
	p.idle[up.key] = append(p.idle[up.key], up)
	p.n++
	p.bound()
}

// share takes a connection that carries many requests. It owns it.
func (p *pool) share(m *multiplexed) {
	m.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		m.Close()
		return
	}
	p.shared[m.key] = append(p.shared[m.key], m)
	p.n++
	p.bound()
}

// reserve gives a connection on which one more request can be sent.
func (p *pool) reserve(k poolKey) *multiplexed {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.shared[k] {
		if m.cc.Err() == nil && m.cc.Available() > 0 && m.cc.Reserve() == nil {
			m.since = time.Now()
			return m
		}
	}
	return nil
}

// speaks tells what a server was seen to speak, if it was seen.
func (p *pool) speaks(k poolKey) (h2, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h2, known = p.h2[k]
	return h2, known
}

func (p *pool) learn(k poolKey, h2 bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.h2) >= maxSpoken {
		clear(p.h2)
	}
	p.h2[k] = h2
}

func (p *pool) forget(k poolKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.h2, k)
}

// bound closes the connection that is idle for longest when there are too many,
// and starts the sweeper.
func (p *pool) bound() {
	if p.timer == nil {
		p.timer = time.AfterFunc(p.keep/2+time.Millisecond, p.sweep)
	}
	if p.n <= p.max {
		return
	}
	oldest := time.Now()
	for _, list := range p.idle {
		oldest = earliest(oldest, list[0].since)
	}
	for _, list := range p.shared {
		for _, m := range list {
			if m.cc.InFlight() == 0 {
				oldest = earliest(oldest, m.since)
			}
		}
	}
	p.drop(func(_ poolKey, since time.Time) bool { return !since.After(oldest) })
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// drop closes what is not in use and meets a condition, and forgets what has
// closed by itself.
func (p *pool) drop(when func(poolKey, time.Time) bool) {
	for k, list := range p.idle {
		p.idle[k] = sift(p, list, func(u *upstream) (io.Closer, bool) { return u.conn, when(k, u.since) })
		if len(p.idle[k]) == 0 {
			delete(p.idle, k)
		}
	}
	for k, list := range p.shared {
		p.shared[k] = sift(p, list, func(m *multiplexed) (io.Closer, bool) {
			return m, m.cc.Err() != nil || m.cc.InFlight() == 0 && when(k, m.since)
		})
		if len(p.shared[k]) == 0 {
			delete(p.shared, k)
		}
	}
}

func sift[T any](p *pool, list []T, out func(T) (io.Closer, bool)) []T {
	kept := list[:0]
	for _, v := range list {
		c, gone := out(v)
		if !gone {
			kept = append(kept, v)
			continue
		}
		c.Close()
		p.n--
	}
	clear(list[len(kept):])
	return kept
}

func (p *pool) sweep() {
	before := time.Now().Add(-p.keep)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(func(_ poolKey, since time.Time) bool { return since.Before(before) })
	if p.n == 0 || p.shut {
		p.timer = nil
		return
	}
	p.timer.Reset(p.keep/2 + time.Millisecond)
}

// retire closes what was kept under other policies than that of by.
func (p *pool) retire(by *Decider) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(func(k poolKey, _ time.Time) bool { return k.by != by })
	for k := range p.h2 {
		if k.by != by {
			delete(p.h2, k)
		}
	}
}

// close closes everything, whether it is in use or not.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.drop(func(poolKey, time.Time) bool { return true })
	for _, list := range p.shared {
		for _, m := range list {
			m.Close()
		}
	}
	clear(p.shared)
}
