package proxy

import (
	"context"
	"errors"
	"net/netip"

	"sallyport/internal/event"
	"sallyport/internal/policy"
)

// Errors of Native. The event is made.
var (
	ErrRefused     = errors.New("proxy: connection refused by the policy")
	ErrUnreachable = errors.New("proxy: the allowed host has no address now")
)

// Native judges a connection of protocol tcp before it is made, so that its
// program learns of a denial from connect and not from a connection that ends.
// Name and port go through the same stations as in ServeCaptured, where the
// connection belongs if there is neither an error nor a target.
//
// With direct, an endpoint of relay: direct gives the judged addresses, for a
// connection that is not carried here: it is not counted, not closed when the
// policy changes, and its end makes no event.
func (s *Server) Native(ctx context.Context, caller Caller, name string, port uint16, direct bool) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Dial)
	defer cancel()
	x := &session{Server: s, ctx: ctx, caller: caller}
	v, no := x.decide(intent{host: name, port: port})
	if no == nil && (v.Endpoint == nil || v.Endpoint.Protocol != policy.TCP) {
		return nil, nil
	}
	var targets []netip.AddrPort
	if no == nil {
		targets, no = x.locate(ctx, &v)
	}
	switch {
	case no != nil:
		x.record(v.intent, no)
		if no.failed {
			return nil, ErrUnreachable
		}
		return nil, ErrRefused
	case !direct || !v.Endpoint.RelayDirect || s.decider.Load() != v.by:
		return nil, nil
	}
	x.emit(event.Connection(event.Open, x.who, event.Where{Host: v.host, Port: v.port, Addr: targets[0].Addr()}, v.event()))
	return targets, nil
}
