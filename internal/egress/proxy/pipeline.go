package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"sallyport/internal/egress/address"
	"sallyport/internal/egress/identity"
	"sallyport/internal/event"
	"sallyport/internal/policy"
)

// intent is what a client wants, whichever way it came in.
type intent struct {
	host string // canonical; empty if nothing named it
	port uint16
	addr netip.Addr // that was connected to, if it was captured

	method, path string            // of an HTTP request; path with its query, canonical once it was read
	agent        string            // User-Agent
	minor        byte              // of HTTP/1
	h2           bool              // HTTP/2
	tls          bool              // inside TLS that was ended here
	operations   []event.Operation // that its body asks for, once it was read
}

// verdict is an intent that was allowed.
type verdict struct {
	intent
	Decision
	by    *Decider // who decided
	query *Query   // what was asked; not to be changed
	read  bool     // what goes there must be read
}

// maxTries bounds the addresses of one name that are dialled.
const maxTries = 8

// decide is the first half of the pipeline: who asks, and may they.
func (x *session) decide(in intent) (verdict, *denial) {
	if was := x.last.Load(); was != nil && was.by == x.decider.Load() && was.host == in.host && was.port == in.port {
		v := *was // nothing that it depends on has changed
		v.intent = in
		return v, nil
	}
	return x.decideAnew(in)
}

func (x *session) decideAnew(in intent) (verdict, *denial) {
	v := verdict{intent: in}
	by := x.decider.Load()
	if x.isSelf(in) {
		return v, &denial{code: proxyLoop, detail: "the proxy does not connect to itself"}
	}
	if x.process == nil {
		p, err := x.caller.Identify(x.ctx)
		if err != nil {
			return v, unidentified(err)
		}
		x.process, x.who = p, whoIs(p)
	}
	v.by, v.query = by, &Query{in.host, in.port, x.process}
	d, err := x.ask(*v.by, *v.query)
	v.Decision = d
	switch {
	case err != nil:
		return v, &denial{code: policyDenied, detail: "the policy gave no decision", reason: "policy_error", cause: err, decision: d}
	case !d.Allow:
		return v, &denial{code: policyDenied, detail: d.Detail, reason: d.Reason, decision: d, missing: d.Missing.rule()}
	case d.HostService.IsValid() && d.HostService == x.self:
		return v, &denial{code: proxyLoop, detail: "the host service leads to the proxy", decision: d}
	}
	v.read = mustBeRead(d.Endpoint) || x.local[in.host] != nil || covered(d)
	x.last.Store(&v)
	return v, nil
}

// ask is Decide; an engine that panics has not allowed anything.
func (x *session) ask(by Decider, q Query) (d Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = Decision{}, fmt.Errorf("bug: policy engine: %v", p)
		}
	}()
	return by.Decide(x.ctx, q)
}

func unidentified(err error) *denial {
	if errors.Is(err, identity.ErrChanged) {
		return &denial{code: identityChanged, detail: "the program's file differs from what it was when it was first seen", cause: err}
	}
	return &denial{code: identityUnknown, detail: "the program that asks could not be told", cause: err}
}

// mustBeRead tells whether an endpoint has rules that hold only if what goes
// through its tunnels is read.
func mustBeRead(e *policy.Endpoint) bool {
	if e == nil {
		return false
	}
	return e.Inspected() || e.Access != "" || e.Path != "" || len(e.Rules) > 0 || len(e.DenyRules) > 0 || e.L7.CredentialProvider != ""
}

// isSelf recognises the proxy's own address in any of its names.
func (x *session) isSelf(in intent) bool {
	if !x.self.IsValid() || in.port != x.self.Port() {
		return false
	}
	if in.host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(in.host)
	return err == nil && (a == x.self.Addr() || a.IsLoopback() || a.IsUnspecified())
}

// reach is the second half: where the host is, and a connection to it.
func (x *session) reach(v *verdict) (*net.TCPConn, *denial) {
	return underOne(x, v, x.connect, func() (no *denial) {
		*v, no = x.decide(v.intent)
		return no
	})
}

// underOne gets a connection for a verdict. When the policy has changed
// meanwhile, all of it is done again under the new one.
func underOne[C io.Closer](x *session, v *verdict, get func(*verdict) (C, *denial), again func() *denial) (C, *denial) {
	var none C
	for range 3 {
		c, no := get(v)
		if no != nil || x.decider.Load() == v.by {
			return c, no
		}
		c.Close()
		if no := again(); no != nil {
			return none, no
		}
	}
	return none, &denial{code: unavailable, detail: "the policy changes too often", decision: v.Decision}
}

// connect makes a connection and shows it to the registry. What it shows is
// what CloseDisallowed looks at: it is there before reach looks for a change.
func (x *session) connect(v *verdict) (*net.TCPConn, *denial) {
	up, no := x.dialUp(v)
	if no != nil {
		return nil, no
	}
	if !x.live.attach(up) {
		return nil, ending(v)
	}
	x.live.query.Store(v.query)
	return up, nil
}

// dialUp finds the host and connects to it.
func (x *session) dialUp(v *verdict) (*net.TCPConn, *denial) {
	ctx, cancel := context.WithTimeout(x.ctx, x.limits.Dial)
	defer cancel()
	targets, no := x.locate(ctx, v)
	if no != nil {
		return nil, no
	}
	up, err := x.dial(ctx, targets)
	if err != nil {
		return nil, unreachable(v, err)
	}
	return up, nil
}

// locate gives the addresses that may be dialled, all of them judged.
func (x *session) locate(ctx context.Context, v *verdict) ([]netip.AddrPort, *denial) {
	if v.HostService.IsValid() {
		return []netip.AddrPort{v.HostService}, nil
	}
	if a, err := netip.ParseAddr(v.host); err == nil {
		if no := x.judgeAddr(v, a); no != nil {
			return nil, no
		}
		return []netip.AddrPort{netip.AddrPortFrom(a, v.port)}, nil
	}
	addrs, err := x.resolver.Resolve(ctx, v.host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("no addresses")
	}
	if err != nil {
		return nil, unresolved(v, err)
	}
	targets := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		// One bad answer refuses all: a name that also leads inside is not to
		// be trusted with which of its addresses is asked for next.
		if no := x.judgeAddr(v, a); no != nil {
			return nil, no
		}
		targets[i] = netip.AddrPortFrom(a.Unmap(), v.port)
	}
	return targets[:min(len(targets), maxTries)], nil
}

func (x *session) judgeAddr(v *verdict, a netip.Addr) *denial {
	err := address.Judge(a, v.AllowedIPs)
	if err == nil && x.own(a.Unmap()) {
		err = errOwn
	}
	if err == nil {
		return nil
	}
	no := &denial{code: ssrfDenied, addr: a, decision: v.Decision, detail: fmt.Sprintf("%s leads to %s: %v", v.host, a, err), reason: "own_address"}
	if v.host == a.String() {
		no.detail = fmt.Sprintf("%s: %v", a, err)
	}
	if r, ok := errors.AsType[*address.Refusal](err); ok {
		no.reason = r.Code
		if r.Class == address.Internal {
			no.missing = &rule{Type: "allowed_ips", Host: v.host, Port: v.port, Policy: v.Rule, AllowedIPs: []netip.Prefix{netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())}}
		}
	}
	return no
}

var errOwn = errors.New("an address of this host: never allowed")

// dial tries one address after the other and shares the time among them.
func (x *session) dial(ctx context.Context, targets []netip.AddrPort) (*net.TCPConn, error) {
	if len(targets) == 1 {
		return x.dialer.Dial(ctx, targets[0])
	}
	var failed error
	for i, to := range targets {
		try, cancel := ctx, context.CancelFunc(func() {})
		if end, ok := ctx.Deadline(); ok {
			share := time.Until(end) / time.Duration(len(targets)-i)
			try, cancel = context.WithTimeout(ctx, share)
		}
		c, err := x.dialer.Dial(try, to)
		cancel()
		if err == nil {
			return c, nil
		}
		if failed == nil {
			failed = err // the first address is the one that the resolver prefers
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

func unresolved(v *verdict, err error) *denial {
	no := &denial{code: upstreamUnreachable, reason: "name_not_resolved", failed: true, cause: err, decision: v.Decision, detail: v.host + " could not be resolved"}
	if timedOut(err) {
		no.code = upstreamTimeout
	}
	return no
}

func unreachable(v *verdict, err error) *denial {
	no := &denial{code: upstreamUnreachable, failed: true, cause: err, decision: v.Decision, detail: fmt.Sprintf("%s port %d could not be reached", v.host, v.port)}
	if timedOut(err) {
		no.code = upstreamTimeout
		no.detail = fmt.Sprintf("%s port %d did not answer in time", v.host, v.port)
	}
	return no
}

func timedOut(err error) bool {
	var t net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
