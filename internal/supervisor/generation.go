package supervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"sync"

	"sallyport/internal/egress/middleware"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/policy/rego"
)

// generation is a policy in force, with what follows from it. It does not change.
type generation struct {
	number     uint64 // 1 for the policy that the sandbox started with
	policy     *policy.Policy
	document   []byte // that policy was read from; nil for the built-in one
	engine     *engine
	allowedIPs []netip.Prefix       // everything that any endpoint grants
	natives    map[destination]bool // of protocol tcp; true with relay: direct
	middle     *middleware.Chain
}

// ReadPolicy reads a document and refuses what this build cannot enforce.
func ReadPolicy(name string, document []byte) (*policy.Policy, []policy.Warning, error) {
	p, warnings, err := policy.Parse(name, document)
	if err != nil {
		return nil, warnings, err
	}
	if errs := policy.Unenforceable(p, Features()); len(errs) > 0 {
		return nil, warnings, errs
	}
	return p, warnings, nil
}

func newGeneration(number uint64, p *policy.Policy, document []byte) (*generation, error) {
	middle, err := middleware.New(p.Middlewares)
	if err != nil {
		return nil, err
	}
	g := &generation{number: number, policy: p, document: document, natives: natives(p), middle: middle}
	g.engine = &engine{compiled: sync.OnceValues(func() (*rego.Engine, error) { return rego.Compile(p, number) })}
	for _, np := range p.Network {
		for _, e := range np.Endpoints {
			g.allowedIPs = append(g.allowedIPs, e.AllowedIPs...)
		}
	}
	return g, nil
}

func (g *generation) decider() decider { return decider{g.engine, g.policy.Source, g.middle} }

// Change is what came of another policy.
type Change struct {
	Generation uint64           `json:"generation"` // in force now
	Closed     int              `json:"closed"`     // connections that are not allowed any more
	Warnings   []policy.Warning `json:"warnings,omitempty"`
}

// replacePolicy puts another document in force for everything from now on, or
// leaves all as it is and says why.
func (s *sandbox) replacePolicy(name string, document []byte) (Change, error) {
	s.replacing.Lock()
	defer s.replacing.Unlock()
	old := s.current.Load()
	next, warnings, err := s.nextGeneration(old, name, document)
	said := event.Configured{Policy: name, Generation: old.number, Hash: hashOf(document)}
	if err != nil {
		said.Err = err.Error()
		s.emit(event.Configuration(said))
		return Change{Generation: old.number, Warnings: warnings}, err
	}
	s.current.Store(next)
	s.dns.SetPolicy(next.engine)
	s.pins.add(next.policy)
	s.proxy.SetDecider(next.decider())
	closed := s.proxy.CloseDisallowed(func(q proxy.Query) bool { return next.keeps(old, q) })
	closed += s.directs.close(func(q proxy.Query) bool {
		return next.natives[destination{q.Host, q.Port}] && next.keeps(old, q)
	})
	s.retire(old.middle)
	said.Generation = next.number
	s.emit(event.Configuration(said))
	return Change{next.number, closed, warnings}, nil
}

// keeps says whether a connection that old allowed may live on.
func (g *generation) keeps(old *generation, q proxy.Query) bool {
	if len(old.middle.For(q.Host))+len(g.middle.For(q.Host)) > 0 && !policy.Same(old.policy.Middlewares, g.policy.Middlewares) {
		return false
	}
	return g.engine.keeps(old.engine, input(q))
}

// retire gives up the middlewares of the generation before the last: requests
// that began under the last one may still pass its own.
func (s *sandbox) retire(middle *middleware.Chain) {
	if s.retired != nil {
		s.retired.Close()
	}
	s.retired = middle
}

// nextGeneration does everything that can fail before anything has changed.
func (s *sandbox) nextGeneration(old *generation, name string, document []byte) (*generation, []policy.Warning, error) {
	p, warnings, err := ReadPolicy(name, document)
	if err != nil {
		return nil, warnings, err
	}
	var providers []policy.Provider
	if s.o.RunConfig != nil {
		providers = s.o.RunConfig.Providers
	}
	if errs := append(policy.Fixed(old.policy, p), policy.CheckProviders(p, providers)...); len(errs) > 0 {
		return nil, warnings, errs
	}
	next, err := newGeneration(old.number+1, p, document)
	if err != nil {
		return nil, warnings, err
	}
	_, err = next.engine.compiled()
	return next, warnings, err
}

func hashOf(document []byte) string {
	sum := sha256.Sum256(document)
	return hex.EncodeToString(sum[:])
}

// engine is the policy engine, compiled at its first use or earlier.
type engine struct {
	compiled func() (*rego.Engine, error)
}

// Decide is rego.Engine's; a policy that cannot be compiled allows nothing.
func (e *engine) Decide(ctx context.Context, in rego.Input) (rego.Result, error) {
	r, err := e.compiled()
	if err != nil {
		return rego.Result{Reason: rego.ReasonError, Detail: err.Error()}, err
	}
	return r.Decide(ctx, in)
}

// EndpointFor is rego.Engine's.
func (e *engine) EndpointFor(ctx context.Context, in rego.Input, path string) (*policy.Endpoint, error) {
	r, err := e.compiled()
	if err != nil {
		return nil, err
	}
	return r.EndpointFor(ctx, in, path)
}

// DecideRequest is rego.Engine's; a policy that cannot be compiled allows nothing.
func (e *engine) DecideRequest(ctx context.Context, in rego.Input, req policy.Request) (rego.RequestResult, error) {
	r, err := e.compiled()
	if err != nil {
		return rego.RequestResult{Reason: rego.ReasonError, Detail: err.Error()}, err
	}
	return r.DecideRequest(ctx, in, req)
}

// Possible says whether some rule could allow the name.
func (e *engine) Possible(host string) bool {
	r, err := e.compiled()
	return err == nil && r.HostPossible(host)
}

// keeps says whether a connection that old allowed may live on. The requests on
// one that is read are judged again by the proxy.
func (e *engine) keeps(old *engine, in rego.Input) bool {
	now, err := e.compiled()
	if err != nil {
		return false
	}
	was, err := old.compiled()
	return err == nil && now.Keeps(context.Background(), was, in) != rego.Ends
}
