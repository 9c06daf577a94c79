package dns

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Possible says whether any rule of the policy could allow a name, whoever
// asks and whatever the port. Names are canonical: lower-case ASCII, no
// trailing dot.
type Possible interface {
	Possible(host string) bool
}

// Why a name got no address, for Options.Refused.
const (
	ReasonNoRule = "no_policy_for_host"
	ReasonFull   = "dns_table_full"
	ReasonNoHost = "not_a_host_name"
	ReasonBusy   = "too_many_dns_connections" // of a connection, whose name is "."
)

// Options of a Server. The zero value of every field but Policy is the default.
type Options struct {
	Policy   Possible
	TTL      time.Duration // of answers; 10 s by default, at most 30 s
	Names    int           // in the table; 16,384 by default and at most
	IPv4Only bool          // AAAA exists but is empty
	// Refused is told of a name that got no address, once for as long as the
	// name is remembered, and of each connection beyond the bound: together at
	// most refusalRate times a minute. suppressed counts those beyond that since
	// the last one.
	Refused func(name, reason string, suppressed int)
	Now     func() time.Time // time.Now by default
}

// Bounds of a Server.
const (
	maxTTL     = 30 * time.Second
	defaultTTL = 10 * time.Second
	maxNames   = 16384 // a quarter of the slots, so that a free one is near
)

// Server answers queries. It is safe for concurrent use.
type Server struct {
	policy   atomic.Pointer[Possible]
	ttl      uint32 // seconds
	v4Only   bool
	table    *table
	refusals refusals
	conns    atomic.Int32
}

// New makes a Server, or says which option is out of range.
func New(o Options) (*Server, error) {
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Names == 0 {
		o.Names = maxNames
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.Policy == nil:
		return nil, errors.New("dns: no policy")
	case o.TTL < time.Second || o.TTL > maxTTL:
		return nil, errors.New("dns: ttl " + o.TTL.String() + ", expected 1s to " + maxTTL.String())
	case o.Names < 1 || o.Names > maxNames:
		return nil, errors.New("dns: size of the table out of range")
	}
	s := &Server{ttl: uint32(o.TTL / time.Second), v4Only: o.IPv4Only, table: newTable(o.Names, 2*o.TTL, o.Now)}
	s.refusals = refusals{tell: o.Refused, now: o.Now, known: map[string]bool{}}
	s.SetPolicy(o.Policy)
	return s, nil
}

// SetPolicy swaps the policy. Addresses that were given out keep their names:
// whether one may be reached is decided when it is.
func (s *Server) SetPolicy(p Possible) { s.policy.Store(&p) }

// Lookup gives the name that a synthetic address stands for. It is false for
// every other address, and for one whose name has been forgotten.
func (s *Server) Lookup(a netip.Addr) (name string, ok bool) {
	slot, ok := slotAt(a)
	if !ok {
		return "", false
	}
	return s.table.nameOf(slot)
}

// find gives the slot of a name that could be allowed; otherwise the reason.
func (s *Server) find(name string) (slot int, reason string) {
	policy := *s.policy.Load()
	if !policy.Possible(name) {
		if !searched(policy, name) {
			s.refusals.add(name, ReasonNoRule)
		}
		return 0, ReasonNoRule
	}
	slot, err := s.table.slotOf(name)
	if err != nil {
		s.refusals.add(name, ReasonFull)
		return 0, ReasonFull
	}
	return slot, ""
}

// searched recognises what a resolver's search list makes of an allowed name:
// api.example.com.svc.cluster.local. It is refused like any other, but is no
// news to anybody.
func searched(p Possible, name string) bool {
	for i := strings.LastIndexByte(name, '.'); i > 0; i = strings.LastIndexByte(name, '.') {
		name = name[:i]
		if p.Possible(name) {
			return true
		}
	}
	return false
}

// Bounds of what is told about refused names.
const (
	refusalRate  = 32 // a minute
	refusalNames = 256
)

// refusals tells of each refused name once and of each refused connection, within
// bounds.
type refusals struct {
	tell func(name, reason string, suppressed int)
	now  func() time.Time

	mu         sync.Mutex
	known      map[string]bool
	order      []string // the ring of known
	next       int
	minute     time.Time // when the current minute began
	told       int       // in it
	suppressed int
}

func (r *refusals) add(name, reason string) {
	if r.tell == nil {
		return
	}
	if n, ok := r.news(name, reason); ok {
		r.tell(name, reason, n)
	}
}

func (r *refusals) news(name, reason string) (suppressed int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[name] {
		return 0, false
	}
	if now := r.now(); now.Sub(r.minute) >= time.Minute {
		r.minute, r.told = now, 0
	}
	if r.told >= refusalRate {
		r.suppressed++
		return 0, false
	}
	r.told++
	suppressed, r.suppressed = r.suppressed, 0
	if reason == ReasonBusy {
		return suppressed, true // the next one is another connection
	}
	if len(r.order) < refusalNames {
		r.order = append(r.order, name)
	} else {
		delete(r.known, r.order[r.next])
		r.order[r.next] = name
		r.next = (r.next + 1) % refusalNames
	}
	r.known[name] = true
	return suppressed, true
}
