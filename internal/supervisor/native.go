package supervisor

import (
	"context"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/policy"
)

// destination is a name and a port.
type destination struct {
	host string
	port uint16
}

// natives are the destinations of protocol tcp; true where some endpoint has relay: direct.
func natives(p *policy.Policy) map[destination]bool {
	out := map[destination]bool{}
	for _, np := range p.Network {
		for _, e := range np.Endpoints {
			for _, port := range e.Ports {
				if to := (destination{e.Host, port}); e.Protocol == policy.TCP {
					out[to] = out[to] || e.RelayDirect
				}
			}
		}
	}
	return out
}

// native gives the route of a connection to a destination of protocol tcp. It is
// judged before it is made, which takes its time. With relay: direct it leads to
// an address that was judged, except where the agent has a network namespace of
// its own, from which only the proxy can be reached, and where this host does not
// let it be held.
func (s *sandbox) native(tid int, wanted netip.AddrPort, through gate.Route) gate.Route {
	name, known := s.dns.Lookup(wanted.Addr())
	if !known {
		return through
	}
	if _, is := s.current.Load().natives[destination{name, wanted.Port()}]; !is {
		return through
	}
	return gate.Route{Judge: func(valid func() bool) gate.Route {
		caller, err := s.ledger.Caller(tid, wanted)
		if err != nil {
			return gate.Route{Errno: unix.EACCES, Reason: err.Error()}
		}
		if !valid() {
			return gate.Route{Errno: unix.EINTR}
		}
		direct, err := s.proxy.Native(context.Background(), caller, name, wanted.Port(), s.mode == policy.Platform)
		switch {
		case errors.Is(err, proxy.ErrUnreachable):
			return gate.Route{Errno: unix.EHOSTUNREACH}
		case err != nil:
			return gate.Route{Errno: unix.EACCES}
		case direct == nil:
			return through
		}
		to, ok := suitable(direct.Targets, wanted.Addr())
		if !ok {
			return through
		}
		if d, ok := s.directs.admit(direct, to, s.proxyAddr, tid); ok {
			return gate.Route{To: to, Follow: d}
		}
		return through
	}}
}

// suitable picks the address that a socket of the wanted family can be connected
// to, the resolver's first choice if there are several. An IPv6 socket can reach
// both families.
func suitable(targets []netip.AddrPort, wanted netip.Addr) (netip.AddrPort, bool) {
	for _, t := range targets {
		if t.Addr().Is4() == wanted.Is4() {
			return t, true
		}
	}
	if len(targets) > 0 && wanted.Is6() {
		return targets[0], true
	}
	return netip.AddrPort{}, false
}
