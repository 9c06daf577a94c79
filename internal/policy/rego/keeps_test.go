package rego

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"sallyport/internal/policy"
)

func TestKeeps(t *testing.T) {
	one := func(change func(ep *policy.Endpoint)) *policy.Policy {
		p := onePolicy()
		change(&p.Network[0].Endpoints[0])
		return p
	}
	rest := func(change func(ep *policy.Endpoint)) *policy.Policy {
		return one(func(ep *policy.Endpoint) {
			ep.Protocol, ep.Rules = policy.REST, []policy.Rule{{Allow: policy.Match{Method: "GET", Path: "/a", Line: 3}}}
			change(ep)
		})
	}
	same := func(*policy.Endpoint) {}
	ip := func(s ...string) func(ep *policy.Endpoint) {
		return func(ep *policy.Endpoint) {
			for _, p := range s {
				ep.AllowedIPs = append(ep.AllowedIPs, netip.MustParsePrefix(p))
			}
		}
	}
	other := onePolicy()
	other.Network[0].Binaries[0].Path = "/usr/bin/wget"
	beside := rest(same)
	beside.Network = append(beside.Network, rest(func(ep *policy.Endpoint) { ep.Path = "/a/**" }).Network[0])
	for name, tc := range map[string]struct {
		old, now *policy.Policy
		want     Kept
	}{
		"the same":          {onePolicy(), onePolicy(), Lives},
		"gone":              {onePolicy(), &policy.Policy{}, Ends},
		"another program":   {onePolicy(), other, Ends},
		"an address gone":   {one(ip("10.0.0.0/8")), onePolicy(), Ends},
		"an address less":   {one(ip("10.0.0.0/8", "fd00::/8")), one(ip("fd00::/8")), Ends},
		"an address more":   {onePolicy(), one(ip("10.0.0.0/8")), Lives},
		"read from now on":  {onePolicy(), rest(same), Ends},
		"no longer read":    {rest(same), onePolicy(), Ends},
		"moved in the file": {rest(same), rest(func(ep *policy.Endpoint) { ep.Rules[0].Allow.Line = 9 }), Lives},
		"a rule more": {rest(same), rest(func(ep *policy.Endpoint) {
			ep.Rules = append(ep.Rules, policy.Rule{Allow: policy.Match{Method: "PUT"}})
		}), Lives},
		"a rule less":         {rest(same), rest(func(ep *policy.Endpoint) { ep.Rules = nil; ep.Access = "read-only" }), Rejudge},
		"full":                {rest(same), rest(func(ep *policy.Endpoint) { ep.Rules = nil; ep.Access = "full" }), Lives},
		"a deny rule more":    {rest(same), rest(func(ep *policy.Endpoint) { ep.DenyRules = []policy.Match{{Method: "PUT"}} }), Rejudge},
		"a deny rule less":    {rest(func(ep *policy.Endpoint) { ep.DenyRules = []policy.Match{{Method: "PUT"}} }), rest(same), Lives},
		"enforced again":      {rest(func(ep *policy.Endpoint) { ep.Audit = true }), rest(same), Rejudge},
		"other settings":      {rest(func(ep *policy.Endpoint) { ep.L7.AllowEncodedSlash = true }), rest(same), Ends},
		"a path taken over":   {rest(same), beside, Ends},
		"a path given back":   {beside, rest(same), Ends},
		"a raw one beside it": {rest(same), &policy.Policy{Network: append(rest(same).Network, onePolicy().Network...)}, Lives},
	} {
		t.Run(name, func(t *testing.T) {
			if got := compile(t, tc.now).Keeps(t.Context(), compile(t, tc.old), curl); got != tc.want {
				t.Errorf("Keeps = %v, want %v", got, tc.want)
			}
		})
	}
}

// TestKeeps_nothingIsLost: a connection that lives on may carry what it could carry before.
func TestKeeps_nothingIsLost(t *testing.T) {
	kept := 0
	rapid.Check(t, func(rt *rapid.T) {
		p := genReadPolicy(rt)
		old := compile(t, p)
		next := &policy.Policy{Network: append([]policy.NetworkPolicy(nil), p.Network...)}
		for i := range next.Network {
			np := &next.Network[i]
			np.Endpoints = append([]policy.Endpoint(nil), np.Endpoints...)
			ep := &np.Endpoints[rapid.IntRange(0, len(np.Endpoints)-1).Draw(rt, "endpoint")]
			switch rapid.IntRange(0, 5).Draw(rt, "change") {
			case 0:
				ep.Access, ep.Rules = "full", nil
			case 1:
				ep.Rules = append(ep.Rules[:len(ep.Rules):len(ep.Rules)], policy.Rule{Allow: genMatch(rt, ep.Protocol)})
			case 2:
				ep.DenyRules = nil
			case 3:
				ep.DenyRules = append(ep.DenyRules[:len(ep.DenyRules):len(ep.DenyRules)], genMatch(rt, ep.Protocol))
			case 4:
				np.Endpoints = np.Endpoints[1:]
			}
		}
		now := compile(t, next)
		in := Input{Host: "a.example", Port: 443, Exe: "/usr/bin/curl"}
		if now.Keeps(t.Context(), old, in) != Lives {
			return
		}
		kept++
		for range 20 {
			req := genRequest(rt)
			if decideRequest(t, old, in, req).Allow && !decideRequest(t, now, in, req).Allow {
				rt.Fatalf("Keeps, though %+v is denied now", req)
			}
		}
	})
	if kept < 10 {
		t.Errorf("%d policies were kept: little was compared", kept)
	}
}
