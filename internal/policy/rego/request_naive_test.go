package rego

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// ruling is the part of a RequestResult that naive knows.
type ruling struct {
	Allow, Audited bool
	Reason         string
	Endpoint       *policy.Endpoint
}

// naiveRequest is what the engine must give, written as the sentences of the language: walk over everything.
func naiveRequest(p *policy.Policy, in Input, req policy.Request) ruling {
	var taking []*policy.Endpoint
	for _, np := range byKey(p.Network) {
		for i := range np.Endpoints {
			ep := &np.Endpoints[i]
			reads := ep.Protocol != policy.Raw && ep.Protocol != policy.TCP
			if reads && naiveHost(*ep, in.Host) && slices.Contains(ep.Ports, in.Port) && naiveBinary(np, in) &&
				(ep.Path == "" || match.Path(ep.Path, req.Path)) {
				taking = append(taking, ep)
			}
		}
	}
	if len(taking) == 0 {
		conn, _ := naive(p, in)
		if conn.Allow {
			return ruling{Reason: ReasonPath}
		}
		return ruling{Reason: conn.Reason}
	}
	var selected []*policy.Endpoint
	for _, ep := range taking {
		if !slices.ContainsFunc(taking, func(o *policy.Endpoint) bool { return match.ComparePaths(o.Path, ep.Path) < 0 }) {
			selected = append(selected, ep)
		}
	}
	out := ruling{Endpoint: selected[0]}
	asks, reason := naiveAsks(selected[0], req)
	if reason != "" {
		out.Reason = reason
		return out
	}
	out.Reason = ReasonAllowed
	mild := true
	for _, ask := range asks {
		if slices.ContainsFunc(selected, func(ep *policy.Endpoint) bool { return naiveAllows(ep, req, ask) }) {
			continue
		}
		out.Reason = ReasonRequest
		mild = mild && selected[0].Audit
	}
	for _, ep := range taking {
		own := asks
		if ep.Protocol != selected[0].Protocol {
			if own, _ = naiveAsks(ep, req); own == nil {
				own = []ask{{}}
			}
		}
		for _, ask := range own {
			for _, d := range ep.DenyRules {
				if naiveMatch(ep, d, req, ask, true) {
					out.Reason = ReasonDenyRule
					mild = mild && ep.Audit
				}
			}
		}
	}
	out.Allow = out.Reason == ReasonAllowed || mild
	out.Audited = out.Allow && out.Reason != ReasonAllowed
	return out
}

// ask is one thing that a request asks for.
type ask struct {
	op        *policy.Operation
	field     string
	call      *policy.Call
	transport bool
}

func naiveAsks(ep *policy.Endpoint, req policy.Request) (asks []ask, reason string) {
	switch ep.Protocol {
	case policy.REST:
		if req.Method == policy.MethodText {
			return nil, ReasonNotUnderstood
		}
		return []ask{{}}, ""
	case policy.JSONRPC, policy.MCP:
		if req.Method == policy.MethodText {
			return nil, ReasonNotUnderstood
		}
		if len(req.Calls) == 0 && ep.Protocol == policy.MCP && (req.Method == "GET" || req.Method == "DELETE") {
			return []ask{{transport: true}}, ""
		}
		for _, c := range req.Calls {
			if ep.Protocol == policy.MCP && c.Method == "tools/call" && (c.Tool == "" || !ep.L7.MCPLooseToolNames && !strictTool(c.Tool)) {
				return nil, ReasonTool
			}
			asks = append(asks, ask{call: &c})
		}
	case policy.WebSocket, policy.GraphQL:
		if ep.Protocol == policy.WebSocket && (req.Method != policy.MethodText || len(req.Operations) == 0) {
			return []ask{{}}, ""
		}
		if ep.Protocol == policy.GraphQL && req.Method == policy.MethodText {
			return nil, ReasonNotUnderstood
		}
		for _, op := range req.Operations {
			if op.Persisted != "" {
				q, ok := ep.L7.RegisteredQueries[op.Persisted]
				if !ok || ep.L7.PersistedQueries != "allow_registered" {
					return nil, ReasonPersisted
				}
				op = policy.Operation{Type: q.OperationType, Name: q.OperationName, Fields: q.Fields}
			}
			if len(op.Fields) == 0 {
				asks = append(asks, ask{op: &op})
			}
			for _, f := range op.Fields {
				asks = append(asks, ask{op: &op, field: f})
			}
		}
	}
	if asks == nil {
		return nil, ReasonNotUnderstood
	}
	return asks, ""
}

func naiveAllows(ep *policy.Endpoint, req policy.Request, a ask) bool {
	if a.transport {
		if ep.L7.MCPAllKnownMethods || len(ep.Rules) == 0 || len(req.Query) == 0 {
			return true
		}
		for _, r := range ep.Rules {
			about := policy.Match{Query: r.Allow.Query, QueryExact: true}
			if !r.Allow.QueryExact || naiveMatch(ep, about, req, ask{}, false) {
				return true
			}
		}
		return false
	}
	for _, r := range ep.Rules {
		if naiveMatch(ep, r.Allow, req, a, false) {
			return true
		}
	}
	if ep.L7.MCPAllKnownMethods && a.call != nil && slices.Contains(policy.MCPMethods, a.call.Method) {
		return true
	}
	words := map[policy.Protocol]string{
		policy.REST:      "GET HEAD OPTIONS|POST PUT PATCH|DELETE TRACE",
		policy.WebSocket: "GET HEAD|WEBSOCKET_TEXT|POST PUT PATCH DELETE OPTIONS TRACE",
		policy.GraphQL:   "query|mutation|subscription",
	}[ep.Protocol]
	n := slices.Index([]string{"read-only", "read-write", "full"}, ep.Access) + 1
	word := req.Method
	if ep.Protocol == policy.GraphQL {
		word = a.op.Type
	}
	return slices.Contains(strings.Fields(strings.Join(strings.Split(words, "|")[:n], " ")), word)
}

func naiveMatch(ep *policy.Endpoint, m policy.Match, req policy.Request, a ask, deny bool) bool {
	paths := []string{req.Path}
	if deny {
		m.Path = strings.ToLower(m.Path)
		paths = []string{strings.ToLower(req.Path), strings.ToLower(strings.TrimRight(req.Path, "/"))}
	}
	if m.Path != "" && !slices.ContainsFunc(paths, func(p string) bool { return p != "" && match.Path(m.Path, p) }) {
		return false
	}
	for key, globs := range m.Query {
		hits := 0
		for _, v := range req.Query[key] {
			if slices.ContainsFunc(globs, func(g string) bool { return match.Glob(g, v) }) {
				hits++
			}
		}
		if hits == 0 || !deny && hits < len(req.Query[key]) {
			return false
		}
	}
	for key := range req.Query {
		if !deny && m.QueryExact && m.Query[key] == nil {
			return false
		}
	}
	if m.OperationType+m.OperationName != "" || m.Fields != nil {
		if a.op == nil || !slices.Contains([]string{"", "*", a.op.Type}, m.OperationType) || m.OperationName != "" && !match.Glob(m.OperationName, a.op.Name) {
			return false
		}
		hit := slices.ContainsFunc(m.Fields, func(g string) bool { return match.Glob(g, a.field) })
		if m.Fields != nil && (a.field == "" && !deny || a.field != "" && !hit) {
			return false
		}
	}
	if ep.Protocol != policy.JSONRPC && ep.Protocol != policy.MCP {
		method := strings.ToUpper(m.Method)
		return method == "" || method == "*" || method == req.Method || method == "GET" && req.Method == "HEAD"
	}
	if a.call == nil {
		return (m.Method == "" || m.Method == "*") && m.Tool == nil && m.Params == nil
	}
	if m.Method != "" && !match.Glob(m.Method, a.call.Method) ||
		m.Tool != nil && (a.call.Method != "tools/call" || !slices.ContainsFunc(m.Tool, func(g string) bool { return match.Glob(g, a.call.Tool) })) {
		return false
	}
	for key, globs := range m.Params {
		v, is := a.call.Params[key]
		hit := is && slices.ContainsFunc(globs, func(g string) bool { return match.Glob(g, v) })
		for k := range a.call.Params {
			hit = hit || !is && deny && strings.HasPrefix(k, key+".")
		}
		if !hit {
			return false
		}
	}
	return true
}

var (
	someMethods  = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", policy.MethodText}
	someRulePath = []string{"", "/**", "**", "/a", "/a/*", "/a/**", "/*/b", "/A/b", "/a*", "/a/?", "/**/b"}
	someURLPaths = []string{"/", "/a", "/a/", "/a/b", "/A/B", "/a/b/c", "/b", "/ab", "/x/y/b", "/a/b/"}
	someGlobs    = []string{"x", "*", "x*", "?", "x.y", "*y"}
	someValues   = []string{"x", "y", "x.y", "xx", ""}
	someFields   = []string{"user", "users", "repo", "x.y"}
	someCalls    = []string{"tools/call", "tools/list", "initialize", "x", "ping"}
	someTools    = []string{"", "search", "search_web", "rm", "a b", "x*"}
)

func globsOf(t *rapid.T, some []string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(append(slices.Clone(someGlobs), some...)), 1, 3, rapid.ID).Draw(t, "globs")
}

func maybe(t *rapid.T, label string) bool { return rapid.IntRange(0, 2).Draw(t, label) == 0 }

func genMatch(t *rapid.T, protocol policy.Protocol) policy.Match {
	m := policy.Match{Path: rapid.SampledFrom(someRulePath).Draw(t, "rule path")}
	rpc := protocol == policy.JSONRPC || protocol == policy.MCP
	switch {
	case maybe(t, "any method"):
		m.Method = rapid.SampledFrom([]string{"", "*"}).Draw(t, "method")
	case rpc:
		m.Method = rapid.SampledFrom(append([]string{"tools/*", "?"}, someCalls...)).Draw(t, "method")
	default:
		m.Method = rapid.SampledFrom(append([]string{"get", "Post"}, someMethods...)).Draw(t, "method")
	}
	if maybe(t, "query") {
		m.Query = map[string][]string{rapid.SampledFrom([]string{"q", "q", "q", "r"}).Draw(t, "key"): globsOf(t, nil)}
	}
	m.QueryExact = maybe(t, "exact")
	if !rpc && maybe(t, "operation") {
		m.OperationType = rapid.SampledFrom([]string{"", "*", "query", "mutation", "subscription"}).Draw(t, "type")
		m.OperationName = rapid.SampledFrom([]string{"", "x*", "x", "*"}).Draw(t, "name")
		if maybe(t, "fields") {
			m.Fields = globsOf(t, someFields)
		}
	}
	if rpc && maybe(t, "tool") {
		m.Tool = globsOf(t, someTools[1:])
	}
	if rpc && maybe(t, "params") {
		m.Params = map[string][]string{rapid.SampledFrom([]string{"name", "a", "a.b"}).Draw(t, "param"): globsOf(t, nil)}
	}
	return m
}

// genReadEndpoint makes an inspected endpoint. Endpoints of one path agree on how they are read, as a policy's must.
func genReadEndpoint(t *rapid.T, agreed map[string]policy.Endpoint) policy.Endpoint {
	ep := policy.Endpoint{Host: rapid.SampledFrom([]string{"a.example", "*.example"}).Draw(t, "host"), Ports: []uint16{443}}
	ep.Path = rapid.SampledFrom([]string{"", "", "/a", "/a/**", "/a/b", "/**/b"}).Draw(t, "path")
	tier := tierOf(ep)
	as, known := agreed[tier]
	if !known {
		as.Protocol = rapid.SampledFrom([]policy.Protocol{policy.REST, policy.WebSocket, policy.GraphQL, policy.JSONRPC, policy.MCP}).Draw(t, "protocol")
		as.Audit = maybe(t, "audit")
		as.L7.MCPLooseToolNames = maybe(t, "loose")
		as.L7.PersistedQueries = rapid.SampledFrom([]string{"", "deny", "allow_registered"}).Draw(t, "persisted")
		as.L7.RegisteredQueries = map[string]policy.Match{"abc": {OperationType: "query", Fields: []string{"user"}}, "def": {OperationType: "mutation"}}
		agreed[tier] = as
	}
	ep.Protocol, ep.Audit, ep.L7 = as.Protocol, as.Audit, as.L7
	ep.L7.MCPAllKnownMethods = ep.Protocol == policy.MCP && maybe(t, "all known")
	if ep.Protocol != policy.JSONRPC && ep.Protocol != policy.MCP && maybe(t, "access") {
		ep.Access = rapid.SampledFrom([]string{"read-only", "read-write", "full"}).Draw(t, "word")
	}
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		ep.Rules = append(ep.Rules, policy.Rule{Allow: genMatch(t, ep.Protocol)})
	}
	for range rapid.IntRange(0, 2).Draw(t, "deny rules") {
		ep.DenyRules = append(ep.DenyRules, genMatch(t, ep.Protocol))
	}
	return ep
}

// tierOf names the endpoints that must agree with one on how they are read.
func tierOf(ep policy.Endpoint) string {
	if ep.Path == "/**/b" {
		return "/a/**" // overlaps with it and is as specific
	}
	return ep.Path
}

func genReadPolicy(t *rapid.T) *policy.Policy {
	p := &policy.Policy{}
	agreed := map[string]policy.Endpoint{}
	for i := range rapid.IntRange(1, 4).Draw(t, "policies") {
		np := policy.NetworkPolicy{Key: fmt.Sprint(i)}
		for range rapid.IntRange(1, 3).Draw(t, "endpoints") {
			np.Endpoints = append(np.Endpoints, genReadEndpoint(t, agreed))
		}
		if maybe(t, "raw") {
			np.Endpoints = append(np.Endpoints, policy.Endpoint{Host: "a.example", Ports: []uint16{443, 80}})
		}
		np.Binaries = []policy.Binary{{Path: rapid.SampledFrom([]string{"/usr/bin/curl", "/usr/bin/git", "/usr/bin/*"}).Draw(t, "binary")}}
		p.Network = append(p.Network, np)
	}
	return p
}

func genRequest(t *rapid.T) policy.Request {
	req := policy.Request{Method: rapid.SampledFrom(someMethods).Draw(t, "method"), Path: rapid.SampledFrom(someURLPaths).Draw(t, "url path")}
	if maybe(t, "has query") {
		req.Query = map[string][]string{"q": rapid.SliceOfN(rapid.SampledFrom(someValues), 0, 3).Draw(t, "values")}
		if maybe(t, "another key") {
			req.Query["r"] = []string{"x"}
		}
	}
	if maybe(t, "operations") {
		for range rapid.IntRange(1, 2).Draw(t, "ops") {
			op := policy.Operation{
				Type: rapid.SampledFrom([]string{"query", "mutation", "subscription"}).Draw(t, "op"), Name: rapid.SampledFrom([]string{"", "x", "xy"}).Draw(t, "op name"),
				Fields: rapid.SliceOfN(rapid.SampledFrom(someFields), 1, 3).Draw(t, "op fields"),
			}
			if maybe(t, "hash") {
				op = policy.Operation{Persisted: rapid.SampledFrom([]string{"abc", "def", "123"}).Draw(t, "persisted")}
			}
			req.Operations = append(req.Operations, op)
		}
	}
	if maybe(t, "calls") {
		for range rapid.IntRange(1, 3).Draw(t, "batch") {
			c := policy.Call{Method: rapid.SampledFrom(someCalls).Draw(t, "call"), Params: map[string]string{}}
			if c.Method == "tools/call" {
				c.Tool = rapid.SampledFrom(someTools).Draw(t, "tool")
			}
			for _, k := range rapid.SliceOfN(rapid.SampledFrom([]string{"name", "a", "a.b"}), 0, 2).Draw(t, "keys") {
				c.Params[k] = rapid.SampledFrom(someValues).Draw(t, "value")
			}
			req.Calls = append(req.Calls, c)
		}
	}
	return req
}

// TestDecideRequest_likeNaive: the indexed engine and the walk give the same for every policy and request.
func TestDecideRequest_likeNaive(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		p := genReadPolicy(rt)
		e := compile(t, p)
		for range 20 {
			in := Input{Host: rapid.SampledFrom([]string{"a.example", "a.example", "b.example", "c.d"}).Draw(rt, "host"), Port: rapid.SampledFrom([]uint16{443, 443, 443, 80, 1}).Draw(rt, "port"), Exe: "/usr/bin/curl"}
			req := genRequest(rt)
			res, err := e.DecideRequest(t.Context(), in, req)
			if err != nil {
				rt.Fatalf("DecideRequest(%+v, %+v) = %v", in, req, err)
			}
			want := naiveRequest(p, in, req)
			got := ruling{res.Allow, res.Audited, res.Reason, res.Endpoint}
			if diff := cmp.Diff(want, got); diff != "" || want.Endpoint != got.Endpoint {
				rt.Fatalf("DecideRequest(%+v, %+v) differs (-want +got):\n%s", in, req, diff)
			}
			if ep, err := e.EndpointFor(t.Context(), in, req.Path); ep != want.Endpoint || err != nil {
				rt.Fatalf("EndpointFor(%+v, %q) = %v, %v, want %v", in, req.Path, ep, err, want.Endpoint)
			}
			seen[fmt.Sprintf("%s/%v", got.Reason, got.Audited)]++
		}
	})
	for _, must := range []string{"allowed/false", "request_not_allowed/false", "request_not_allowed/true", "request_denied_by_rule/false", "request_denied_by_rule/true", "path_not_allowed/false"} {
		if seen[must] < 5 {
			t.Errorf("%s was seen %d times, so little was compared", must, seen[must])
		}
	}
}
