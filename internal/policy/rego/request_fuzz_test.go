package rego

import (
	"testing"

	"sallyport/internal/policy"
)

// FuzzDecideRequest gives the engine what no reader would: it answers like the walk.
func FuzzDecideRequest(f *testing.F) {
	ep := func(path string, protocol policy.Protocol, m, deny policy.Match) policy.Endpoint {
		return policy.Endpoint{Host: "a.example", Ports: []uint16{443}, Path: path, Protocol: protocol, Rules: []policy.Rule{{Allow: m}}, DenyRules: []policy.Match{deny}}
	}
	p := &policy.Policy{Network: []policy.NetworkPolicy{{Key: "p", Binaries: []policy.Binary{{Path: "/usr/bin/curl"}}, Endpoints: []policy.Endpoint{
		ep("", policy.REST, policy.Match{Method: "GET", Path: "/a/**", Query: map[string][]string{"q": {"x*", "?"}}}, policy.Match{Path: "/a/*/Secret"}),
		ep("/mcp/**", policy.MCP, policy.Match{Tool: []string{"search_*"}}, policy.Match{Tool: []string{"search_?"}, Params: map[string][]string{"a": {"*"}}}),
		ep("/graphql", policy.GraphQL, policy.Match{OperationType: "query", Fields: []string{"us*"}}, policy.Match{Fields: []string{"user"}}),
		ep("/ws", policy.WebSocket, policy.Match{OperationType: "*"}, policy.Match{OperationName: "x"}),
	}}}}
	e := compile(f, p)
	in := Input{Host: "a.example", Port: 443, Exe: "/usr/bin/curl"}
	for _, s := range [][5]string{
		{"GET", "/a/b", "x", "", ""}, {"HEAD", "/A/b/SECRET/", "x", "", ""}, {"POST", "/mcp", "", "tools/call", "search_web"},
		{"POST", "/graphql", "", "query", "user"}, {policy.MethodText, "/ws", "", "mutation", "x"}, {"", "", "", "", ""}, {"GET", "//", "\x00", "*", "**"},
	} {
		f.Add(s[0], s[1], s[2], s[3], s[4])
	}
	f.Fuzz(func(t *testing.T, method, path, value, kind, name string) {
		req := policy.Request{Method: method, Path: path, Query: map[string][]string{"q": {value}}}
		if kind != "" {
			req.Calls = []policy.Call{{Method: kind, Tool: name, Params: map[string]string{value: name}}}
			req.Operations = []policy.Operation{{Type: kind, Name: name, Fields: []string{name}}}
		}
		res := decideRequest(t, e, in, req)
		if !judged(req) {
			if res.Allow {
				t.Fatalf("DecideRequest(%#v) allows what a reader would refuse", req)
			}
			return
		}
		if want := naiveRequest(p, in, req); res.Allow != want.Allow || res.Endpoint != want.Endpoint {
			t.Fatalf("DecideRequest(%#v) = %+v, want %+v", req, res, want)
		}
	})
}

// judged leaves out what the walk does not know: it takes a request to be one that a reader made.
func judged(req policy.Request) bool {
	if req.Method == "" {
		return false
	}
	for _, op := range req.Operations {
		if op.Type != "query" && op.Type != "mutation" && op.Type != "subscription" {
			return req.Path != "/graphql" && !(req.Path == "/ws" && req.Method == policy.MethodText)
		}
	}
	return true
}
