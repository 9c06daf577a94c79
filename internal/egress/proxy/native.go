package proxy

import (
	"context"
	"errors"
	"net/netip"
	"time"

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
// connection belongs if there is neither an error nor a Direct.
//
// With direct, an endpoint of relay: direct gives what is needed to make the
// connection elsewhere. It is not counted here, and whoever makes it tells of it.
func (s *Server) Native(ctx context.Context, caller Caller, name string, port uint16, direct bool) (*Direct, error) {
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
	return &Direct{Targets: targets, Query: Query{v.host, v.port, x.process}, x: x, v: v}, nil
}

// Direct is an allowed connection that is not carried by the Server. Its methods
// make the events that a carried one would have.
type Direct struct {
	Targets []netip.AddrPort // judged; the resolver's first choice first
	Query   Query            // what was allowed

	x *session
	v verdict
}

// Current reports whether the policy that allowed the connection is in force.
func (d *Direct) Current() bool { return d.x.decider.Load() == d.v.by }

// Open tells that the connection to a is there.
func (d *Direct) Open(a netip.Addr) {
	d.x.emit(event.Connection(event.Open, d.x.who, d.where(a), d.v.event()))
}

// Fail tells that it could not be made.
func (d *Direct) Fail(a netip.Addr, err error) {
	no := unreachable(&d.v, err)
	no.addr = a
	d.x.record(d.v.intent, no)
}

// Refuse tells that it was ended before it was there, because the policy changed.
func (d *Direct) Refuse(a netip.Addr) {
	d.x.record(d.v.intent, &denial{code: policyDenied, reason: endPolicy, detail: "the policy changed while the connection was being made", addr: a, decision: d.v.Decision})
}

// End tells that it has ended: by itself, or because the policy changed. in and out
// are the bytes that the agent got and sent, -1 where that is not known.
func (d *Direct) End(a netip.Addr, byPolicy bool, in, out int64, lasted time.Duration) {
	v := d.v.event()
	if byPolicy {
		v.Reason = endPolicy
	}
	e := event.Ended(d.x.who, d.where(a), v, in, out, lasted)
	if in < 0 || out < 0 {
		e.Traffic = nil
	}
	d.x.emit(e)
}

func (d *Direct) where(a netip.Addr) event.Where {
	return event.Where{Host: d.v.host, Port: d.v.port, Addr: a}
}
