package supervisor

import (
	"context"

	"sallyport/internal/egress/identity"
	"sallyport/internal/egress/middleware"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/policy"
	"sallyport/internal/policy/rego"
)

// decider puts the proxy's questions to the policy engine.
type decider struct {
	engine *engine
	source string // name of the policy document
	middle *middleware.Chain
}

var _ proxy.Decider = decider{}

// Decide is about a host and port.
func (d decider) Decide(ctx context.Context, q proxy.Query) (proxy.Decision, error) {
	r, err := d.engine.Decide(ctx, input(q))
	out := proxy.Decision{
		Allow: r.Allow, Reason: r.Reason, Detail: r.Detail, Policy: d.source, Generation: r.Generation,
		Rule: r.Policy, Line: r.Line, Endpoint: r.Endpoint, AllowedIPs: r.AllowedIPs,
	}
	if r.Allow {
		out.Middleware = d.middle.For(q.Host)
	}
	if r.HostService != nil {
		out.HostService = r.HostService.To
	}
	if r.Missing != nil {
		out.Missing = &proxy.Missing{Host: r.Missing.Host, Port: r.Missing.Port, Binary: r.Missing.Binary}
	}
	return out, err
}

// Endpoint is the one that owns a canonical path among those that admit q; false
// if none does, or if that could not be told.
func (d decider) Endpoint(ctx context.Context, q proxy.Query, path string) (*policy.Endpoint, bool) {
	e, err := d.engine.EndpointFor(ctx, input(q), path)
	return e, err == nil && e != nil
}

// DecideRequest is about one request of a connection that q was allowed for.
func (d decider) DecideRequest(ctx context.Context, q proxy.Query, req policy.Request) (proxy.Decision, error) {
	r, err := d.engine.DecideRequest(ctx, input(q), req)
	out := proxy.Decision{
		Allow: r.Allow, Audited: r.Audited, Reason: r.Reason, Detail: r.Detail, Policy: d.source, Generation: r.Generation,
		Rule: r.Policy, Line: r.Line, Endpoint: r.Endpoint,
	}
	if m := r.Missing; m != nil {
		out.Missing = &proxy.Missing{Host: m.Host, Port: m.Port, Binary: m.Binary, Policy: m.Policy, Protocol: m.Protocol, Allow: &m.Allow}
	}
	return out, err
}

// input is a query as the engine wants it. A program without a file of its own,
// or behind a loader, is an identity of its own: that a named program started it
// does not speak for it.
func input(q proxy.Query) rego.Input {
	in := rego.Input{Host: q.Host, Port: q.Port, Exe: q.Process.Exe}
	if q.Process.Kind == identity.File {
		in.Ancestors = paths(q.Process.Ancestors)
	}
	return in
}

func paths(list []identity.Binary) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = b.Path
	}
	return out
}
