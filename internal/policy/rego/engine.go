package rego

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// Engine answers for one generation of one policy. It is safe for use by several goroutines.
type Engine struct {
	generation uint64
	limit      time.Duration // of a decision
	program    *program
	hosts      *hostIndex
	callers    *callerIndex
	endpoints  []endpoint   // by endpoint id
	inspected  []*inspected // by endpoint id; nil for one that is not
	selectors  match.Paths[string]
	audit      *ast.Term // the ids of endpoints in audit
	services   map[hostPort]*policy.HostService
	index      *ast.Term // input.index of the module
	ports      map[uint16]*ast.Term

	judgments memory[judgment] // who reaches a host and port
	fields    memory[*field]   // which endpoints take a request in
	verdicts  memory[verdict]  // what follows from the rules that match
}

// endpoint is where an endpoint id points.
type endpoint struct {
	policy *policy.NetworkPolicy
	at     int // in policy.Endpoints
}

type hostPort struct {
	host string
	port uint16
}

// Compile makes the engine of a policy. generation comes back in every result, so that a request can be held to
// the policy it started with. The engine keeps p and hands out pointers into it: p must not change any more.
//
// Compile touches nothing but p and takes about half a millisecond for a small policy. A caller in a hurry puts
// it into sync.OnceValues, calls that from a goroutine, and again when the first decision is due. The error says
// which policy cannot be compiled and why; one that came from policy.Parse can.
func Compile(p *policy.Policy, generation uint64) (*Engine, error) {
	if p == nil {
		return nil, errors.New("bug: rego: no policy to compile")
	}
	program, err := newProgram()
	if err != nil {
		return nil, err
	}
	e := &Engine{
		generation: generation,
		limit:      limit,
		program:    program,
		hosts:      newHostIndex(),
		callers:    newCallerIndex(),
		services:   make(map[hostPort]*policy.HostService, len(p.HostServices)),
		ports:      map[uint16]*ast.Term{},
	}
	for i := range p.HostServices {
		s := &p.HostServices[i]
		e.services[hostPort{s.Host, s.Port}] = s
	}
	draft := draft{}
	for _, np := range byKey(p.Network) {
		if err := e.add(draft, np); err != nil {
			return nil, fmt.Errorf("rego: policy %q: %w", np.Key, err)
		}
	}
	e.index = draft.term(e.ports)
	e.selectors, e.audit = selectorsOf(e.inspected)
	return e, nil
}

// HostPossible tells whether the policy allows this canonical host (a name or the text of an address) to anyone
// on any port. A name that is not possible must not be resolved.
func (e *Engine) HostPossible(host string) bool {
	var found [8]*hostPattern
	return slices.ContainsFunc(e.hosts.match(found[:0], host), func(p *hostPattern) bool { return p.grants })
}

// add indexes the endpoints of a policy.
func (e *Engine) add(d draft, np *policy.NetworkPolicy) error {
	callers := e.callers.add(np)
	for i := range np.Endpoints {
		patterns, err := e.patterns(&np.Endpoints[i])
		if err != nil {
			return fmt.Errorf("endpoint %d: %w", i, err)
		}
		id := ast.InternedTerm(len(e.endpoints))
		read, err := inspect(len(e.endpoints), np, i)
		if err != nil {
			return fmt.Errorf("endpoint %d: %w", i, err)
		}
		e.endpoints = append(e.endpoints, endpoint{np, i})
		e.inspected = append(e.inspected, read)
		for _, pattern := range patterns {
			pattern.grants = pattern.grants || callers != nil
			for _, port := range np.Endpoints[i].Ports {
				d.put(pattern, port, read, callers, id)
			}
		}
	}
	return nil
}

// patterns returns what an endpoint matches: its host, or without one the addresses it allows.
func (e *Engine) patterns(ep *policy.Endpoint) ([]*hostPattern, error) {
	if ep.Host != "" {
		p, err := e.hosts.add(ep.Host)
		return []*hostPattern{p}, err
	}
	if len(ep.AllowedIPs) == 0 {
		return nil, errors.New("neither a host nor allowed_ips")
	}
	var patterns []*hostPattern
	for _, prefix := range ep.AllowedIPs {
		p, err := e.hosts.addPrefix(prefix)
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

// byKey returns the policies in the order of their keys, the order in which they are reported.
func byKey(policies []policy.NetworkPolicy) []*policy.NetworkPolicy {
	sorted := make([]*policy.NetworkPolicy, len(policies))
	for i := range policies {
		sorted[i] = &policies[i]
	}
	slices.SortStableFunc(sorted, func(a, b *policy.NetworkPolicy) int { return cmp.Compare(a.Key, b.Key) })
	return sorted
}
