package rego

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/internal/policy"
)

// httpRequest is the form of request.json of a request.
type httpRequest struct {
	request
	Method     string              `json:"method"`
	Path       string              `json:"path"`
	Query      map[string][]string `json:"query"`
	Operations []policy.Operation  `json:"operations"`
	Calls      []policy.Call       `json:"calls"`
}

// wantedRequest is the form of want.json of a request.
type wantedRequest struct {
	Allow    bool           `json:"allow"`
	Audited  bool           `json:"audited,omitempty"`
	Reason   string         `json:"reason"`
	Detail   string         `json:"detail,omitempty"`
	Policy   string         `json:"policy,omitempty"`
	Line     int            `json:"line,omitempty"`
	Endpoint int            `json:"endpoint,omitempty"` // its line
	Missing  *wantedMissing `json:"missing,omitempty"`
}

type wantedMissing struct {
	RuleMissing
	Policy   string          `json:"policy,omitempty"`
	Protocol policy.Protocol `json:"protocol"`
	Allow    struct {
		Method        string              `json:"method,omitempty"`
		Path          string              `json:"path,omitempty"`
		Query         map[string][]string `json:"query,omitempty"`
		QueryExact    bool                `json:"query_exact,omitempty"`
		OperationType string              `json:"operation_type,omitempty"`
		Fields        []string            `json:"fields,omitempty"`
		Tool          []string            `json:"tool,omitempty"`
	} `json:"allow"`
}

// TestDecideRequest runs every testdata/requests/*.txtar: policy.yaml, request.json, want.json.
func TestDecideRequest(t *testing.T) {
	runCases(t, "testdata/requests/*.txtar", func(t *testing.T, p *policy.Policy, r httpRequest) wantedRequest {
		res := decideRequest(t, compile(t, p), Input(r.request), policy.Request{
			Method: r.Method, Path: r.Path, Query: r.Query, Operations: r.Operations, Calls: r.Calls,
		})
		w := wantedRequest{Allow: res.Allow, Audited: res.Audited, Reason: res.Reason, Detail: res.Detail, Policy: res.Policy, Line: res.Line}
		if res.Endpoint != nil {
			w.Endpoint = res.Endpoint.Line
		}
		if m := res.Missing; m != nil {
			w.Missing = &wantedMissing{RuleMissing: m.RuleMissing, Policy: m.Policy, Protocol: m.Protocol}
			a := &w.Missing.Allow
			a.Query, a.QueryExact = m.Allow.Query, m.Allow.QueryExact
			a.Method, a.Path, a.OperationType, a.Fields, a.Tool = m.Allow.Method, m.Allow.Path, m.Allow.OperationType, m.Allow.Fields, m.Allow.Tool
		}
		return w
	})
}

func decideRequest(t testing.TB, e *Engine, in Input, req policy.Request) RequestResult {
	t.Helper()
	res, err := e.DecideRequest(t.Context(), in, req)
	if err != nil {
		t.Fatalf("DecideRequest(%+v, %+v) = %v, want no error", in, req, err)
	}
	if res.Generation != e.generation {
		t.Fatalf("DecideRequest(%+v, %+v): generation %d, want %d", in, req, res.Generation, e.generation)
	}
	return res
}

// A connection that an inspected endpoint admits is to be read, though a raw one of a smaller key admits it too.
func TestDecide_inspectedFirst(t *testing.T) {
	p := &policy.Policy{Network: []policy.NetworkPolicy{policyOf("a", "a.example", "/usr/bin/curl"), policyOf("b", "a.example", "/usr/bin/curl")}}
	p.Network[1].Endpoints[0].Protocol = policy.REST
	if got := decide(t, compile(t, p), curl); got.Policy != "b" || got.Endpoint.Protocol != policy.REST {
		t.Errorf("Decide: policy %q, protocol %q, want b, rest", got.Policy, got.Endpoint.Protocol)
	}
}

// ruleShapes are policies of n L7 rules that could make a decision depend on n, with a request that one allows.
var ruleShapes = []struct {
	name string
	make func(n int) *policy.Policy
	req  policy.Request
}{
	{"paths", ofRules(policy.REST, func(i int) policy.Match { return policy.Match{Method: "GET", Path: fmt.Sprintf("/repos/%d/**", i)} }),
		policy.Request{Method: "GET", Path: "/repos/7/issues"}},
	{"tools", ofRules(policy.MCP, func(i int) policy.Match { return policy.Match{Tool: []string{fmt.Sprintf("tool%d", i)}} }),
		policy.Request{Method: "POST", Path: "/mcp", Calls: []policy.Call{{Method: "tools/call", Tool: "tool7"}}}},
	{"methods", ofRules(policy.JSONRPC, func(i int) policy.Match { return policy.Match{Method: fmt.Sprintf("call%d", i)} }),
		policy.Request{Method: "POST", Path: "/rpc", Calls: []policy.Call{{Method: "call7"}, {Method: "call8"}}}},
	{"fields", ofRules(policy.GraphQL, func(i int) policy.Match {
		return policy.Match{OperationType: "query", Fields: []string{fmt.Sprintf("field%d", i)}}
	}), policy.Request{Method: "POST", Path: "/graphql", Operations: []policy.Operation{{Type: "query", Fields: []string{"field7", "field8"}}}}},
	{"denied paths", func(n int) *policy.Policy {
		p := ofRules(policy.REST, func(int) policy.Match { return policy.Match{Method: "GET"} })(1)
		for i := range n {
			p.Network[0].Endpoints[0].DenyRules = append(p.Network[0].Endpoints[0].DenyRules, policy.Match{Path: fmt.Sprintf("/secret/%d/**", i)})
		}
		return p
	}, policy.Request{Method: "GET", Path: "/repos/7"}},
	{"endpoints", func(n int) *policy.Policy { // of one host and port, each with a path and a rule
		p := ofRules(policy.REST, nil)(0)
		p.Network[0].Endpoints = nil
		for i := range n {
			p.Network[0].Endpoints = append(p.Network[0].Endpoints, policy.Endpoint{
				Host: "h7.example.com", Ports: []uint16{443}, Protocol: policy.REST, Path: fmt.Sprintf("/%d/**", i), Access: "read-only",
			})
		}
		return p
	}, policy.Request{Method: "GET", Path: "/7/x"}},
	{"hosts", func(n int) *policy.Policy {
		p := shapes[0].make(n)
		for i := range p.Network {
			ep := &p.Network[i].Endpoints[0]
			ep.Protocol, ep.Access = policy.REST, "read-only"
		}
		return p
	}, policy.Request{Method: "GET", Path: "/7/x"}},
}

// ofRules makes policies of one endpoint with n rules.
func ofRules(protocol policy.Protocol, match func(i int) policy.Match) func(n int) *policy.Policy {
	return func(n int) *policy.Policy {
		p := &policy.Policy{Network: []policy.NetworkPolicy{policyOf("p", "h7.example.com", "/usr/bin/curl")}}
		ep := &p.Network[0].Endpoints[0]
		ep.Protocol = protocol
		for i := range n {
			ep.Rules = append(ep.Rules, policy.Rule{Allow: match(i)})
		}
		return p
	}
}

var curlH7 = Input{Host: "h7.example.com", Port: 443, Exe: "/usr/bin/curl"}

// TestDecideRequest_flat counts the steps that OPA takes, which must not depend on the number of rules, and the
// rules that are looked at.
func TestDecideRequest_flat(t *testing.T) {
	for _, shape := range ruleShapes {
		denied := shape.req
		denied.Method, denied.Calls, denied.Operations = "POST", []policy.Call{{Method: "other"}}, []policy.Operation{{Type: "mutation", Fields: []string{"x"}}}
		for name, req := range map[string]policy.Request{"allowed": shape.req, "denied": denied} {
			t.Run(shape.name+"/"+name, func(t *testing.T) {
				steps := func(n int) uint {
					e := compile(t, shape.make(n))
					one := e.newPatience(t.Context())
					one.until = time.Now().Add(time.Hour)
					wait := func() *patience { return one }
					f, err := e.field(wait, curlH7, req.Path)
					if err != nil || len(f.selected) != 1 || len(f.taking) != 1 {
						t.Fatalf("field = %+v, %v, want one endpoint", f, err)
					}
					parts, reason := e.inspected[f.selected[0]].partsOf(&req)
					if reason != "" {
						t.Fatal(reason)
					}
					e.matchRules(f, parts, &req)
					v, err := e.verdict(wait, f, parts)
					if err != nil || v.permitted != (name == "allowed") {
						t.Fatalf("verdict = %+v, %v", v, err)
					}
					return one.steps
				}
				if few, many := steps(10), steps(1000); few != many {
					t.Errorf("steps: %d with 10 rules, %d with 1000, want the same", few, many)
				}
			})
		}
	}
}

// TestDecideRequest_remembered: the engine remembers a bounded number of answers, and they stay right.
func TestDecideRequest_remembered(t *testing.T) {
	p := ofRules(policy.REST, func(int) policy.Match { return policy.Match{Method: "GET", Path: "/a/**"} })(1)
	p.Network[0].Endpoints[0].Host = "**.example.com"
	p.Network[0].Binaries = []policy.Binary{{Path: "/**"}}
	e := compile(t, p)
	for i := range 3 * maxRemembered {
		in := Input{Host: fmt.Sprintf("h%d.example.com", i), Port: 443, Exe: fmt.Sprintf("/bin/%d", i)}
		for _, path := range []string{"/a/x", "/b"} {
			if got := decideRequest(t, e, in, policy.Request{Method: "GET", Path: path}).Allow; got != (path == "/a/x") {
				t.Fatalf("DecideRequest(%+v, %s) = %v", in, path, got)
			}
		}
	}
	if n, m := len(e.fields.answers), len(e.verdicts.answers); n > maxRemembered || m > 2 {
		t.Errorf("%d fields and %d verdicts are remembered, want at most %d and 2", n, m, maxRemembered)
	}
	long := Input{Host: "x.example.com", Port: 443, Exe: "/bin/" + strings.Repeat("x", maxKey)}
	before := len(e.fields.answers)
	if !decideRequest(t, e, long, policy.Request{Method: "GET", Path: "/a"}).Allow || len(e.fields.answers) != before {
		t.Error("an endless path of a program is remembered, or denied")
	}
}

func TestDecideRequest_failsClosed(t *testing.T) {
	const (
		taking = "package sallyport.request\ntaking contains [0, 0] if input.port\n"
		quiet  = "permitted if input.nothing\naudited if input.nothing\n"
	)
	for name, tc := range map[string]struct{ module, reason string }{
		"no taking":      {"package sallyport.request\ntaking := 1\n", ReasonUndefined},
		"unknown id":     {"package sallyport.request\ntaking := {[0, 1]}\n", ReasonUndefined},
		"not a pair":     {"package sallyport.request\ntaking := {0}\n", ReasonUndefined},
		"permitted is 1": {taking + "permitted := 1\n", ReasonUndefined},
		"no refusing":    {taking + quiet + "refusing := 1\n", ReasonUndefined},
		"no unmatched":   {taking + quiet + "refusing := {0}\nunmatched := {\"0\"}\n", ReasonUndefined},
		"broken":         {taking + "permitted := input.parts & input.parts\n", ReasonError},
		"endless": {taking + "xs := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]\n" +
			"permitted if { xs[_] != xs[_]; xs[_] != xs[_]; xs[_] != xs[_]; xs[_] = 99 }\n", ReasonTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			e := compile(t, ofRules(policy.REST, func(int) policy.Match { return policy.Match{Method: "GET"} })(1))
			req := policy.Request{Method: "GET", Path: "/"}
			var err error
			if e.program, err = compileModules(map[string]string{"x.rego": tc.module}, builtins); err != nil {
				t.Fatal(err)
			}
			res, err := e.DecideRequest(t.Context(), curlH7, req)
			if res.Allow || res.Reason != tc.reason || err == nil {
				t.Errorf("DecideRequest = %+v, %v, want a denial for %s", res, err, tc.reason)
			}
		})
	}
	e := compile(t, ruleShapes[0].make(10))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	res, err := e.DecideRequest(ctx, curlH7, ruleShapes[0].req)
	if res.Allow || res.Reason != ReasonTimeout || !errors.Is(err, context.Canceled) {
		t.Errorf("DecideRequest = %+v, %v, want a denial because of the context", res, err)
	}
	if ep, err := e.EndpointFor(ctx, curlH7, "/other"); ep != nil || err == nil {
		t.Errorf("EndpointFor = %v, %v, want an error", ep, err)
	}
}

// TestDecideRequest_concurrent is for the race detector.
func TestDecideRequest_concurrent(t *testing.T) {
	e := compile(t, ruleShapes[0].make(100))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				n := (g*31 + i) % 120
				req := policy.Request{Method: "GET", Path: fmt.Sprintf("/repos/%d/x", n)}
				if res, err := e.DecideRequest(t.Context(), curlH7, req); err != nil || res.Allow != (n < 100) {
					t.Errorf("DecideRequest(%s) = %+v, %v", req.Path, res, err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkDecideRequest(b *testing.B) {
	for _, shape := range ruleShapes {
		for _, n := range []int{10, 1000} {
			e := compile(b, shape.make(n))
			b.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(shape.name, " ", "_"), n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if res, err := e.DecideRequest(b.Context(), curlH7, shape.req); err != nil || !res.Allow {
						b.Fatal(res, err)
					}
				}
			})
		}
	}
	e := compile(b, ruleShapes[0].make(10))
	b.Run("asking", func(b *testing.B) { // without what is remembered
		b.ReportAllocs()
		for b.Loop() {
			e.fields.answers, e.verdicts.answers = nil, nil
			if res, err := e.DecideRequest(b.Context(), curlH7, ruleShapes[0].req); err != nil || !res.Allow {
				b.Fatal(res, err)
			}
		}
	})
}
