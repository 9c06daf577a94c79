package supervisor

import (
	"context"

	"sallyport/internal/egress/identity"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/policy/rego"
)

// decider puts the proxy's questions to the policy engine.
type decider struct {
	engine *engine
	source string // name of the policy document
}

var _ proxy.Decider = decider{}

func (d decider) Decide(ctx context.Context, q proxy.Query) (proxy.Decision, error) {
	in := rego.Input{Host: q.Host, Port: q.Port, Exe: q.Process.Exe}
	if q.Process.Kind == identity.File {
		// A program without a file of its own, or behind a loader, is an identity
		// of its own: that a named program started it does not speak for it.
		in.Ancestors = paths(q.Process.Ancestors)
	}
	r, err := d.engine.Decide(ctx, in)
	out := proxy.Decision{
		Allow: r.Allow, Reason: r.Reason, Detail: r.Detail, Policy: d.source, Generation: r.Generation,
		Rule: r.Policy, Line: r.Line, Endpoint: r.Endpoint, AllowedIPs: r.AllowedIPs,
	}
	if r.HostService != nil {
		out.HostService = r.HostService.To
	}
	if r.Missing != nil {
		out.Missing = &proxy.Missing{Host: r.Missing.Host, Port: r.Missing.Port, Binary: r.Missing.Binary}
	}
	return out, err
}

func paths(list []identity.Binary) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = b.Path
	}
	return out
}
