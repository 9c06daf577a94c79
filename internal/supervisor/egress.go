package supervisor

import (
	"net/netip"
	"time"

	"sallyport/internal/egress/address"
	"sallyport/internal/egress/dns"
	"sallyport/internal/egress/identity"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/event"
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
	first, err := newGeneration(1, s.policy, s.o.Document)
	if err != nil {
		return err
	}
	s.current.Store(first)
	s.ledger = identity.New(identity.Options{Root: func() (int, int) {
		<-s.running
		return s.agent.PID, s.agent.Guard()
	}})
	if s.dns, err = dns.New(dns.Options{Policy: first.engine, Refused: s.nameRefused}); err != nil {
		return err
	}
	local, err := s.localHosts()
	if err != nil {
		return err
	}
	s.pins = newPins(&proxy.SystemResolver{Fixed: s.o.Resolve}, s.policy)
	o := proxy.Options{
		Decider:   first.decider(),
		Resolver:  s.pins,
		Inspector: s.ends, Local: local,
		Events: s.emit, Quiet: s.writer == nil && (s.o.Event == nil || s.o.OnlyTrouble), DenialID: s.session.DenialID, Self: s.proxyAddr,
	}
	if s.creds.injector != nil {
		o.Secrets = s.creds.injector
	}
	s.directs.members, s.directs.now, s.directs.missed = s.members, time.Now, s.unheld
	s.proxy, err = proxy.New(o)
	return err
}

func (s *sandbox) nameRefused(name, reason string, suppressed int) {
	g := s.current.Load()
	detail := "the name was not looked up"
	if reason == dns.ReasonBusy {
		detail = "a connection to the resolver was closed: too many are open"
	}
	e := event.Connection(event.Refuse, event.Who{}, event.Where{Host: name, Port: dnsPort, Proto: "dns"},
		event.Verdict{Reason: reason, Detail: detail + untold(int64(suppressed)), Policy: g.policy.Source, Generation: g.number})
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
	return address.Judge(a, s.current.Load().allowedIPs)
}
