package supervisor

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"sallyport/internal/egress/proxy"
	"sallyport/internal/policy"
)

// pinTime bounds the looking up of a name that is pinned.
const pinTime = 15 * time.Second

// pins freezes the addresses of names for the life of the sandbox: what a name
// server says later changes nothing (DnsPinnedAllowlist of the design). The
// addresses are judged like any other when they are used.
type pins struct {
	next  proxy.Resolver
	names map[string]func() ([]netip.Addr, error)
}

// newPins looks the pinned names of a policy up, beside the agent's start.
func newPins(next proxy.Resolver, p *policy.Policy) *pins {
	s := &pins{next, map[string]func() ([]netip.Addr, error){}}
	for _, np := range p.Network {
		for _, e := range np.Endpoints {
			if e.Protocol != policy.TCP || e.PinRefresh || s.names[e.Host] != nil {
				continue
			}
			look := sync.OnceValues(func() ([]netip.Addr, error) {
				ctx, cancel := context.WithTimeout(context.Background(), pinTime)
				defer cancel()
				return next.Resolve(ctx, e.Host)
			})
			s.names[e.Host] = look
			go look()
		}
	}
	return s
}

// Resolve gives the frozen addresses of a pinned name, and asks for any other.
func (s *pins) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if look := s.names[host]; look != nil {
		return look()
	}
	return s.next.Resolve(ctx, host)
}
