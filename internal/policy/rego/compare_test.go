package rego

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/internal/policy"
)

// The properties of this package are tried with the same inputs in every run; -rapid.seed=0 -rapid.checks=N explores.
var _ = flag.Set("rapid.seed", "1")

// widened is what Compare says that the second of two documents makes possible.
func widened(t *testing.T, had, has string) (wider []string) {
	t.Helper()
	parsed := func(text string) *policy.Policy {
		t.Helper()
		p, _, err := policy.Parse("p", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, d := range policy.Compare(parsed(had), parsed(has)) {
		if d.Wider {
			wider = append(wider, d.What)
		}
	}
	return wider
}

// TestCompare_endpointMore: what an endpoint more makes possible, though a grant of the first policy seems to take it in.
func TestCompare_endpointMore(t *testing.T) {
	const first, second = "version: 1\nnetwork_policies:\n  a:\n    binaries: [{path: /usr/bin/curl}]\n    endpoints:\n", "      - {host: a.example, port: 443, "
	for _, tt := range []struct{ name, had, more, wider string }{
		{
			"the stream of an MCP endpoint that allows no call", "protocol: rest, access: full, path: /a}\n", "protocol: mcp, path: /b, rules: [{allow: {method: ping}}]}\n",
			"/usr/bin/curl at a.example:443/b: mcp sessions: GET to listen, DELETE to end",
		},
		{
			"a path of a host that was read elsewhere", "protocol: rest, access: full, path: /a}\n" + second + "}\n", "protocol: rest, access: full, path: /b}\n",
			"/usr/bin/curl at a.example:443/b: everything by rest",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wider := widened(t, first+second+tt.had, first+second+tt.had+second+tt.more)
			if !slices.Contains(wider, tt.wider) {
				t.Errorf("wider: %q, want %q among it", wider, tt.wider)
			}
		})
	}
}

// TestCompare_queryExact: a rule that takes more keys of a query is wider, one that takes fewer or needs more is not.
func TestCompare_queryExact(t *testing.T) {
	written := func(match string) string {
		return "version: 1\nnetwork_policies: {a: {binaries: [{path: /x}], endpoints: [{host: a.example, port: 443, protocol: rest, enforcement: enforce, rules: [{allow: {method: GET, " + match + "}}]}]}}"
	}
	for _, tt := range []struct {
		had, has string
		wider    bool
	}{
		{"query_exact: true", `path: "/**"`, true},
		{`path: "/**"`, `path: "/**", query_exact: true`, false},
		{"query_exact: true", "query_exact: true, path: /a", false},
		{"query_exact: true", "query: {q: x}, query_exact: true", true}, // a request with q was denied
		{"query: {q: x}, query_exact: true", "query_exact: true", true}, // a request without was denied
		{"query: {q: x}, query_exact: true", "query: {q: x}", true},
		{"query: {q: x}", "query: {q: x}, query_exact: true", false},
		{"query: {q: x}", "query: {q: x, r: y}, query_exact: true", false},
		{"query: {q: x}, query_exact: true", "query: {q: x, r: y}, query_exact: true", true},
		{"query: {q: x*}, query_exact: true", "query: {q: x}, query_exact: true", false},
		{"query: {q: x}, query_exact: true", "query: {q: x*}, query_exact: true", true},
	} {
		if got := len(widened(t, written(tt.had), written(tt.has))) > 0; got != tt.wider {
			t.Errorf("Compare(%s; %s): wider %v, want %v", tt.had, tt.has, got, tt.wider)
		}
	}
}

// TestCompare_whatAuditRefuses: audit lets pass what no rule allows, but not what the proxy does not read.
func TestCompare_whatAuditRefuses(t *testing.T) {
	written := func(rest string) string {
		return "version: 1\nnetwork_policies: {a: {binaries: [{path: /x}], endpoints: [{host: a.example, port: 443, protocol: websocket, " + rest + "}]}}"
	}
	const (
		operations = "rules: [{allow: {method: GET}}, {allow: {operation_type: query}}]"
		texts      = "rules: [{allow: {method: GET}}, {allow: {method: WEBSOCKET_TEXT}}]"
	)
	for _, tt := range []struct {
		had, has string
		wider    bool
	}{
		{"enforcement: audit, access: read-only", "enforcement: audit, access: full", true}, // binary messages
		{"enforcement: audit, access: read-write", "enforcement: enforce, access: full", true},
		{"enforcement: audit, access: full", "enforcement: audit, access: read-only", false},
		{"enforcement: audit, access: full", "enforcement: enforce, access: full", false},
		{"enforcement: audit, access: read-only", "enforcement: audit, access: read-write", false},
		{"enforcement: audit, access: read-only", "enforcement: enforce, access: read-write", false},
		{"enforcement: audit, " + operations, "enforcement: audit, " + texts, true}, // text that is no operation
		{"enforcement: audit, " + operations, "enforcement: audit, access: full", true},
		{"enforcement: audit, " + operations, "enforcement: enforce, " + texts, true},
		{"enforcement: audit, " + texts, "enforcement: audit, " + operations, false},
		{"enforcement: audit, " + operations, "enforcement: enforce, " + operations, false},
		{"enforcement: audit, " + operations, "enforcement: enforce, rules: [{allow: {method: GET}}]", false},
	} {
		if got := len(widened(t, written(tt.had), written(tt.has))) > 0; got != tt.wider {
			t.Errorf("Compare(%s; %s): wider %v, want %v", tt.had, tt.has, got, tt.wider)
		}
	}
}

// TestCompare_firstOfWebSocket: of the endpoints of one path the first says whether binary messages pass, and whether
// text is read as operations.
func TestCompare_firstOfWebSocket(t *testing.T) {
	written := func(policies string) string {
		doc := "version: 1\nnetwork_policies:\n"
		for _, p := range strings.Split(policies, "; ") {
			key, rest, _ := strings.Cut(p, " ")
			doc += "  " + key + ": {binaries: [{path: /x}], endpoints: [{host: a.example, port: 443, protocol: websocket, enforcement: enforce, " + rest + "}]}\n"
		}
		return doc
	}
	const operations = "rules: [{allow: {method: GET}}, {allow: {operation_type: query}}]"
	for _, tt := range []struct {
		had, has string
		wider    bool
	}{
		{"b access: read-only; c access: full", "c access: full", true}, // the first is gone
		{"b access: read-only; c access: full", "a access: full; b access: read-only; c access: full", true},
		{"b access: read-only; c access: full", "b access: full; c access: full", true},
		{"b access: read-only; c access: full", "b access: full; c access: read-only", true},
		{"b access: read-only; c access: full", "b access: full, path: /a; c access: full; d access: read-only", true},
		{"b access: read-only; c access: full", "b access: read-only; c access: full, path: /a", true},
		{"b " + operations + "; c access: full", "c access: full", true},
		{"b access: read-only; c access: full", "b access: read-only; c access: full", false},
		{"b access: read-only; c access: full", "b access: read-only", false},
		{"b access: full; c access: read-only", "b access: full", false},
		{"c access: full", "b access: read-only; c access: full", false},
		{"b access: read-only", "c access: read-only", false},
	} {
		if got := len(widened(t, written(tt.had), written(tt.has))) > 0; got != tt.wider {
			t.Errorf("Compare(%s; %s): wider %v, want %v", tt.had, tt.has, got, tt.wider)
		}
	}
}

// TestCompare_queryOfTransport: what a GET without a call may tell a server of MCP in its query.
func TestCompare_queryOfTransport(t *testing.T) {
	written := func(rules string) string {
		return "version: 1\nnetwork_policies: {a: {binaries: [{path: /x}], endpoints: [{host: a.example, port: 443, protocol: mcp, enforcement: enforce, rules: [" + rules + "]}]}}"
	}
	const sessions = "/x at a.example:443: mcp sessions: GET to listen, DELETE to end"
	const exact, named, open = "{allow: {method: ping, query_exact: true}}", "{allow: {method: ping, query: {q: x}, query_exact: true}}", "{allow: {method: ping}}"
	for _, tt := range []struct {
		had, has string
		wider    bool
	}{
		{exact, exact + ", " + open, true},
		{exact, exact + ", " + named, true},
		{exact, named, true},
		{named, exact, false},
		{named, exact + ", " + named, false},
		{open, exact + ", " + named, false},
		{exact + ", " + open, exact, false},
	} {
		if got := slices.Contains(widened(t, written(tt.had), written(tt.has)), sessions); got != tt.wider {
			t.Errorf("Compare(%s; %s): sessions are wider %v, want %v", tt.had, tt.has, got, tt.wider)
		}
	}
}

// TestCompare_namesWhatIsWider: a request that only the second of two policies allows is never passed over.
func TestCompare_namesWhatIsWider(t *testing.T) {
	widened, quiet := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		a := genReadPolicy(rt)
		b := mutated(rt, a)
		empty := slices.ContainsFunc(b.Network, func(np policy.NetworkPolicy) bool { return len(np.Endpoints) == 0 })
		if !empty && maybe(rt, "another change") {
			b = mutated(rt, b)
		}
		was, now := compile(t, a), compile(t, b)
		diff := policy.Compare(a, b)
		wider := slices.ContainsFunc(diff, func(d policy.Difference) bool { return d.Wider })
		if !wider {
			quiet++
		}
		for range 30 {
			in := Input{Host: rapid.SampledFrom([]string{"a.example", "b.example"}).Draw(rt, "host"), Port: 443,
				Exe: rapid.SampledFrom([]string{"/usr/bin/curl", "/usr/bin/git", "/usr/bin/x"}).Draw(rt, "exe")}
			req := genRequest(rt)
			before, after := decideRequest(t, was, in, req), decideRequest(t, now, in, req)
			if !before.Allow && after.Allow {
				widened++
				if !wider {
					rt.Fatalf("%+v %+v is allowed now, and Compare names only %+v", in, req, diff)
				}
			}
			// A connection that is not read carries anything.
			c1, c2 := decide(t, was, in), decide(t, now, in)
			if c2.Allow && c2.Endpoint.Protocol == policy.Raw && !(c1.Allow && c1.Endpoint.Protocol == policy.Raw) && !wider {
				rt.Fatalf("%+v is not read now, and Compare names only %+v", in, diff)
			}
		}
		if same := policy.Compare(a, a); len(same) != 0 {
			rt.Fatalf("a policy differs from itself: %+v", same)
		}
	})
	if widened == 0 || quiet == 0 {
		t.Errorf("%d requests were allowed anew, %d pairs had nothing wider: little was compared", widened, quiet)
	}
}

// mutated is a policy with one change somewhere.
func mutated(t *rapid.T, p *policy.Policy) *policy.Policy {
	next := &policy.Policy{Network: slices.Clone(p.Network)}
	np := &next.Network[rapid.IntRange(0, len(next.Network)-1).Draw(t, "which policy")]
	np.Endpoints = slices.Clone(np.Endpoints)
	ep := &np.Endpoints[rapid.IntRange(0, len(np.Endpoints)-1).Draw(t, "which endpoint")]
	reads := ep.Protocol != policy.Raw
	switch n := rapid.IntRange(0, 11).Draw(t, "change"); {
	case n == 0 && reads && ep.Protocol != policy.JSONRPC && ep.Protocol != policy.MCP:
		ep.Access = rapid.SampledFrom([]string{"", "read-only", "read-write", "full"}).Draw(t, "access")
	case n == 1 && reads:
		ep.Rules = append(slices.Clone(ep.Rules), policy.Rule{Allow: genMatch(t, ep.Protocol)})
	case n == 2 && len(ep.Rules) > 0:
		ep.Rules = slices.Clone(ep.Rules)
		ep.Rules[0].Allow = genMatch(t, ep.Protocol)
	case n == 10 && len(ep.Rules) > 0:
		ep.Rules = slices.Clone(ep.Rules)
		ep.Rules[0].Allow.QueryExact = !ep.Rules[0].Allow.QueryExact
	case n == 3:
		ep.DenyRules = nil
	case n == 4 && len(ep.DenyRules) > 0:
		ep.DenyRules = slices.Clone(ep.DenyRules)
		ep.DenyRules[0] = genMatch(t, ep.Protocol)
	case n == 5:
		np.Endpoints = np.Endpoints[1:]
	case n == 6:
		np.Binaries = []policy.Binary{{Path: rapid.SampledFrom([]string{"/usr/bin/curl", "/usr/bin/*", "/**"}).Draw(t, "new binary")}}
	case n == 7:
		ep.Host = rapid.SampledFrom([]string{"a.example", "*.example", "b.example"}).Draw(t, "new host")
	case n == 11 && reads:
		audits(next, tierOf(*ep), !ep.Audit)
	case n == 8:
		agreed := map[string]policy.Endpoint{}
		for _, o := range next.Network {
			for _, e := range o.Endpoints {
				if e.Protocol == policy.Raw {
					continue
				}
				agreed[tierOf(e)] = e
			}
		}
		np.Endpoints = append(np.Endpoints, genReadEndpoint(t, agreed))
	default:
		np.Endpoints = append(np.Endpoints, policy.Endpoint{Host: "a.example", Ports: []uint16{443}})
	}
	return next
}

// audits sets the enforcement of all endpoints that must agree on it.
func audits(p *policy.Policy, tier string, audit bool) {
	for i := range p.Network {
		eps := slices.Clone(p.Network[i].Endpoints)
		for j := range eps {
			if eps[j].Protocol != policy.Raw && tierOf(eps[j]) == tier {
				eps[j].Audit = audit
			}
		}
		p.Network[i].Endpoints = eps
	}
}
