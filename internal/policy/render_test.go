package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRender_roundTrip: what is written is read as what was meant.
func TestRender_roundTrip(t *testing.T) {
	want := []NetworkPolicy{
		{Key: "a-example", Name: "a-example", Binaries: []Binary{{Path: `/usr/bin/a "b" ü`}, {Path: "/x"}}, Endpoints: []Endpoint{
			{Host: "a.example", Ports: []uint16{443}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}},
			{Host: "t.example", Ports: []uint16{5432}, Protocol: TCP},
			{Host: "*.b.example", Ports: []uint16{80, 443}, Protocol: REST, Rules: []Rule{{Allow: Match{Method: "GET", Path: "/a/%2Fb/'c'"}}}},
			{Host: "q.example", Ports: []uint16{443}, Protocol: REST, L7: L7{AllowEncodedSlash: true}, Rules: []Rule{{Allow: Match{Method: "GET", QueryExact: true}},
				{Allow: Match{Method: "GET", Query: map[string][]string{"a": {"*"}, "\x01é: {}": {"x", "y\"?"}, "null": {"z"}}, QueryExact: true}}}},
			{Host: "c.example", Ports: []uint16{443}, Protocol: GraphQL, Rules: []Rule{{Allow: Match{OperationType: "query", Fields: []string{"a", "b"}}}}},
			{Host: "d.example", Ports: []uint16{443}, Protocol: MCP, Rules: []Rule{{Allow: Match{Method: "tools/call", Tool: []string{"x"}}}, {Allow: Match{Tool: []string{"y", "z"}}}}},
		}},
		{Key: "on", Name: "on", Binaries: []Binary{{Path: "/x"}}, Endpoints: []Endpoint{{Host: "::1", Ports: []uint16{1}}}},
	}
	doc := Render(want)
	p, warns, err := Parse("r.yaml", []byte("version: 1\n"+doc))
	if err != nil || len(warns) > 0 {
		t.Fatalf("Parse = %v, %v\n%s", warns, err, doc)
	}
	if !Same(p.Network, want) {
		t.Errorf("read differs (-want +got):\n%s\n%s", cmp.Diff(want, p.Network, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })), doc)
	}
	if got := Render(nil); !strings.Contains(got, "{}") {
		t.Errorf("Render(nil) = %q", got)
	}
}
