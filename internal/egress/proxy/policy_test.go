package proxy

import (
	"context"
	"testing"

	"sallyport/internal/egress/middleware"
	"sallyport/internal/policy"
	"sallyport/internal/policy/rego"
)

// written is a policy as a person writes it, with the engine that decides.
type written struct {
	*rego.Engine
	middle *middleware.Chain
}

// policyOf makes the Decider of these network policies, indented as under
// network_policies. Every program is named.
func policyOf(t testing.TB, endpoints string) written {
	t.Helper()
	return policyWith(t, endpoints, "")
}

// policyWith is policyOf with further sections of the document.
func policyWith(t testing.TB, endpoints, more string) written {
	t.Helper()
	text := "version: 1\nnetwork_policies:\n  forge:\n    endpoints:\n" + endpoints + "\n    binaries: [{path: /**}]\n" + more
	p, _, err := policy.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	e, err := rego.Compile(p, 1)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := middleware.New(p.Middlewares)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(chain.Close)
	return written{e, chain}
}

func (p written) in(q Query) rego.Input {
	return rego.Input{Host: q.Host, Port: q.Port, Exe: q.Process.Exe}
}

func (p written) Decide(ctx context.Context, q Query) (Decision, error) {
	r, err := p.Engine.Decide(ctx, p.in(q))
	return Decision{Allow: r.Allow, Reason: r.Reason, Detail: r.Detail, Policy: "test.yaml", Generation: 1, Rule: r.Policy, Line: r.Line, Endpoint: r.Endpoint, Middleware: p.middle.For(q.Host)}, err
}

func (p written) Endpoint(ctx context.Context, q Query, path string) (*policy.Endpoint, bool) {
	e, err := p.EndpointFor(ctx, p.in(q), path)
	return e, err == nil && e != nil
}

func (p written) DecideRequest(ctx context.Context, q Query, req policy.Request) (Decision, error) {
	r, err := p.Engine.DecideRequest(ctx, p.in(q), req)
	return Decision{
		Allow: r.Allow, Audited: r.Audited, Reason: r.Reason, Detail: r.Detail, Policy: "test.yaml", Generation: 1,
		Rule: r.Policy, Line: r.Line, Endpoint: r.Endpoint,
	}, err
}
