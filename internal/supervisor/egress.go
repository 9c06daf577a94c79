package supervisor

import (
	"context"
	"net/netip"
	"sync"

	"sallyport/internal/egress/address"
	"sallyport/internal/egress/dns"
	"sallyport/internal/egress/identity"
	"sallyport/internal/egress/middleware"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/policy/rego"
)

// buildEgress opens the one listener and builds what stands behind it. The
// policy is compiled beside the agent's start; the first decision waits for it.
func (s *sandbox) buildEgress() error {
	var err error
	if s.listener == nil {
		if s.listener, s.proxyAddr, err = listenProxy(s.o.ProxyPort, loopback, ""); err != nil {
			return err
		}
	}
	s.engine = &engine{compiled: sync.OnceValues(func() (*rego.Engine, error) { return rego.Compile(s.policy, 1) })}
	s.ledger = identity.New(identity.Options{Root: func() (int, int) {
		<-s.running
		return s.agent.PID, s.agent.Guard()
	}})
	if s.dns, err = dns.New(dns.Options{Policy: s.engine, Refused: s.nameRefused}); err != nil {
		return err
	}
	s.natives = natives(s.policy)
	middle, err := middleware.New(s.policy.Middlewares)
	if err != nil {
		return err
	}
	local, err := s.localHosts()
	if err != nil {
		return err
	}
	o := proxy.Options{
		Decider:   decider{s.engine, s.policy.Source, middle},
		Resolver:  newPins(&proxy.SystemResolver{Fixed: s.o.Resolve}, s.policy),
		Inspector: s.ends, Local: local,
		Events: s.emit, DenialID: s.session.DenialID, Self: s.proxyAddr,
	}
	if s.creds.injector != nil {
		o.Secrets = s.creds.injector
	}
	if s.proxy, err = proxy.New(o); err != nil {
		return err
	}
	s.trust, err = newTrust(s.ends.PEM(), s.roots)
	return err
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

func (s *sandbox) nameRefused(name, reason string, suppressed int) {
	e := event.Connection(event.Refuse, event.Who{}, event.Where{Host: name, Port: dnsPort, Proto: "dns"},
		event.Verdict{Reason: reason, Detail: "the name was not looked up", Policy: s.policy.Source, Generation: 1})
	s.emit(e)
}

// reachable refuses at once what no rule could ever allow, so that the program
// gets an error from connect instead of a connection that ends. An address that
// the policy DNS gave out stands for a name.
func (s *sandbox) reachable(a netip.Addr) error {
	for _, p := range dns.Prefixes() {
		if p.Contains(a) {
			return nil
		}
	}
	return address.Judge(a, s.allowedIPs)
}
