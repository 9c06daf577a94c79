package supervisor

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sallyport/internal/egress/proxy"
	"sallyport/internal/policy"
)

// pinTime bounds the looking up of a name that is pinned.
const pinTime = 15 * time.Second

// pins freezes the addresses of names for the life of the sandbox: what a name
// server says later changes nothing (DnsPinnedAllowlist of the design). The
// addresses are judged like any other when they are used. A name with pin:
// refresh is no pin: it is asked for again for each connection.
type pins struct {
	next  proxy.Resolver
	mu    sync.Mutex
	names map[string]*pin
}

// pin is one name. The first answer is the one that stays; where the name server
// had none, the next use asks again.
type pin struct {
	mu    sync.Mutex
	addrs []netip.Addr
}

// newPins looks the pinned names of a policy up, beside the agent's start.
func newPins(next proxy.Resolver, p *policy.Policy) *pins {
	s := &pins{next: next, names: map[string]*pin{}}
	s.add(p)
	return s
}

// add looks up the names that another policy pins. Those that are pinned keep
// their addresses.
func (s *pins) add(p *policy.Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, np := range p.Network {
		for _, e := range np.Endpoints {
			if e.Protocol != policy.TCP || e.PinRefresh || s.names[e.Host] != nil {
				continue
			}
			one := &pin{}
			s.names[e.Host] = one
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), pinTime)
				defer cancel()
				one.resolve(ctx, s.next, e.Host) // an error is told to who needs the name
			}()
		}
	}
}

// Resolve gives the frozen addresses of a pinned name, and asks for any other.
func (s *pins) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	s.mu.Lock()
	one := s.names[host]
	s.mu.Unlock()
	if one != nil {
		return one.resolve(ctx, s.next, host)
	}
	return s.next.Resolve(ctx, host)
}

func (p *pin) resolve(ctx context.Context, next proxy.Resolver, host string) ([]netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.addrs) > 0 {
		return slices.Clone(p.addrs), nil
	}
	addrs, err := next.Resolve(ctx, host)
	if err == nil {
		p.addrs = slices.Clone(addrs)
	}
	return addrs, err
}
