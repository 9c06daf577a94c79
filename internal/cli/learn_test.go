package cli

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/policy/rego"
)

const learnPolicy = `version: 1
filesystem_policy: {include_workdir: true, read_only: [/usr]}
network_policies:
  api:
    endpoints:
      - {host: api.example, port: 443, protocol: rest, enforcement: enforce, access: full}
      - {host: "*.cdn.example", port: 443}
      - {host: db.example, port: 5432, protocol: tcp, allowed_ips: [10.4.0.0/16]}
      - {host: mcp.example, port: 443, protocol: mcp, enforcement: enforce, mcp: {allow_all_known_mcp_methods: true, max_body_bytes: 9000, strict_tool_names: false}}
      - {host: silent.example, port: 443, protocol: mcp, enforcement: enforce, mcp: {allow_all_known_mcp_methods: true}}
      - {host: both.example, port: 443, protocol: rest, enforcement: enforce, access: full}
      - {host: both.example, port: 443, protocol: graphql, path: "/graph*", enforcement: enforce, access: full}
      - {host: chat.example, port: 443, protocol: websocket, enforcement: enforce, access: full}
      - {host: model.local, port: 80}
    binaries: [{path: /usr/**}]
host_services:
  - {host: model.local, port: 80, to: "127.0.0.1:11434"}
network_capture: off
`

// learning is a learner under learnPolicy, and the file that it writes.
func learning(t *testing.T) (l *learner, name string) {
	t.Helper()
	p, _, err := policy.Parse("dev.yaml", []byte(learnPolicy))
	if err != nil {
		t.Fatal(err)
	}
	name = filepath.Join(t.TempDir(), "out.yaml")
	if l, err = newLearner(name, p); err != nil {
		t.Fatal(err)
	}
	return l, name
}

// TestLearn: what was used is allowed by what is written, and nothing else is.
func TestLearn(t *testing.T) {
	l, name := learning(t)
	curl, nc, psql := event.Who{Exe: "/usr/bin/curl"}, event.Who{Exe: "/usr/bin/nc"}, event.Who{Exe: "/usr/bin/psql"}
	ok := event.Verdict{Disposition: event.Allowed, Rule: "api"}
	no := func(reason string) event.Verdict { return event.Verdict{Reason: reason, Rule: "api"} }
	at := func(host string, port uint16) event.Where { return event.Where{Host: host, Port: port} }
	get := func(method, path string) event.HTTP {
		return event.HTTP{Method: method, Path: path, Scheme: "https", RawQuery: "token=hunter2"}
	}
	asks := func(method, path string, all ...event.Operation) event.HTTP {
		return event.HTTP{Method: method, Path: path, Scheme: "https", Operations: all}
	}
	for _, e := range []event.Event{
		event.Connection(event.Open, curl, at("api.example", 443), ok),
		event.Request(get("GET", "/v1/items"), curl, at("api.example", 443), ok),
		event.Request(get("POST", "/v1/items"), curl, at("api.example", 443), ok),
		event.Request(get("PUT", "/v1/a%2Fb"), curl, at("api.example", 443), ok),
		event.Request(event.HTTP{Method: "GET", Path: "/plain", Scheme: "http"}, curl, at("plain.cdn.example", 443), ok),
		event.Request(event.HTTP{Method: "GET", Path: "/chat", Scheme: "http", Status: 101}, curl, at("socket.cdn.example", 443), ok),
		event.Request(get("GET", "/v1/*"), curl, at("api.example", 443), ok),
		event.Request(get("DELETE", "/v1/audited"), curl, at("api.example", 443), event.Verdict{Disposition: event.Logged, Reason: rego.ReasonRequest, Rule: "api"}),
		event.Request(get("DELETE", "/v1/items"), curl, at("api.example", 443), no(rego.ReasonRequest)),
		event.Request(get("GET", "/v1/secrets"), curl, at("api.example", 443), no(rego.ReasonDenyRule)),
		event.Connection(event.Open, curl, at("a.cdn.example", 443), ok),
		event.Connection(event.Open, nc, event.Where{Host: "db.example", Port: 5432, Addr: netip.MustParseAddr("10.4.0.7")}, ok),
		event.Connection(event.Fail, curl, at("b.cdn.example", 443), ok),
		event.Connection(event.Open, psql, event.Where{Host: "db.example", Port: 5432, Addr: netip.MustParseAddr("10.4.0.7")}, ok),
		event.Connection(event.Open, curl, at("mcp.example", 443), ok),
		event.Request(asks("POST", "/mcp", event.Operation{Method: "tools/call", Tool: "find it"}, event.Operation{Method: "ping"}), curl, at("mcp.example", 443), ok),
		event.Request(asks("POST", "/mcp", event.Operation{Method: "tools/call", Tool: "every*"}), curl, at("mcp.example", 443), ok),
		event.Request(asks("POST", "/long", make([]event.Operation, 50)...), curl, at("mcp.example", 443), ok),
		event.Request(asks("GET", "/mcp"), curl, at("mcp.example", 443), ok),
		event.Request(asks("GET", "/mcp"), curl, at("silent.example", 443), ok),
		event.Request(asks("GET", "/rest"), curl, at("both.example", 443), ok),
		event.Request(asks("POST", "/graphql", event.Operation{Type: "query", Name: "Repo", Fields: []string{"viewer", "repository"}}), curl, at("both.example", 443), ok),
		event.Request(asks("POST", "/graphql", event.Operation{Type: "mutation", Fields: []string{"star"}}), curl, at("both.example", 443), no(rego.ReasonRequest)),
		event.Request(asks("POST", "/graphs", event.Operation{Persisted: "00ff"}), curl, at("both.example", 443), ok),
		event.Request(asks("GET", "/chat"), curl, at("chat.example", 443), ok),
		event.Request(asks(policy.MethodText, "/chat"), curl, at("chat.example", 443), ok),
		event.Request(asks("GET", "/subscribe"), curl, at("chat.example", 443), ok),
		event.Request(asks(policy.MethodText, "/subscribe", event.Operation{Type: "subscription", Name: "News", Fields: []string{"news"}}), curl, at("chat.example", 443), ok),
		event.Connection(event.Open, curl, at("model.local", 80), ok),
		event.Connection(event.Refuse, curl, at("evil.example", 443), no(rego.ReasonHost)),
		event.Connection(event.Refuse, curl, at("127.0.0.1", 80), no(rego.ReasonHost)),
		event.Connection(event.Refuse, curl, at("::1", 80), no(rego.ReasonHost)),
		event.Connection(event.Refuse, curl, at("localhost", 80), no(rego.ReasonHost)),
		event.Connection(event.Refuse, curl, at("169.254.169.254", 80), no(rego.ReasonHost)),
		event.Connection(event.Refuse, curl, at("rebound.example", 80), no("own_address")),
		event.Connection(event.Refuse, event.Who{Exe: "/tmp/x\n*"}, at("c.cdn.example", 443), no(rego.ReasonBinary)),
		event.Connection(event.Refuse, event.Who{}, at("d.cdn.example", 443), no(rego.ReasonBinary)),
	} {
		l.event(e)
	}
	l.done(func(said string) {
		if !strings.Contains(said, "values of queries, variables, arguments and messages are not recorded, and 8 rules take any;") {
			t.Errorf("said: %s", said)
		}
	}, []byte(learnPolicy))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	got, warnings, err := policy.Parse("out.yaml", b)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("Parse = %v, %v\n%s", warnings, err, b)
	}
	if errs := policy.Fixed(l.policy, got); len(errs) > 0 {
		t.Errorf("other sections differ: %v\n%s", errs, b)
	}
	text := string(b)
	anyToken := map[string][]string{"token": {"*"}}
	want := policy.Render([]policy.NetworkPolicy{
		{Key: "curl", Binaries: []policy.Binary{{Path: "/usr/bin/curl"}}, Endpoints: []policy.Endpoint{
			{Host: "a.cdn.example", Ports: []uint16{443}},
			{Host: "api.example", Ports: []uint16{443}, Protocol: policy.REST, L7: policy.L7{AllowEncodedSlash: true}, Rules: []policy.Rule{
				{Allow: policy.Match{Method: "PUT", Path: "/v1/a%2Fb", Query: anyToken, QueryExact: true}},
				{Allow: policy.Match{Method: "GET", Path: "/v1/items", Query: anyToken, QueryExact: true}},
				{Allow: policy.Match{Method: "POST", Path: "/v1/items", Query: anyToken, QueryExact: true}}}},
			{Host: "both.example", Ports: []uint16{443}, Protocol: policy.REST, Rules: []policy.Rule{{Allow: policy.Match{Method: "GET", Path: "/rest", QueryExact: true}}}},
			{Host: "both.example", Ports: []uint16{443}, Protocol: policy.GraphQL, Path: "/graphql", Rules: []policy.Rule{
				{Allow: policy.Match{Method: "POST", Path: "/graphql", QueryExact: true, OperationType: "query", OperationName: "Repo", Fields: []string{"repository", "viewer"}}}}},
			{Host: "chat.example", Ports: []uint16{443}, Protocol: policy.WebSocket, Path: "/chat", Rules: []policy.Rule{
				{Allow: policy.Match{Method: "GET", Path: "/chat", QueryExact: true}},
				{Allow: policy.Match{Method: policy.MethodText, Path: "/chat", QueryExact: true}}}},
			{Host: "chat.example", Ports: []uint16{443}, Protocol: policy.WebSocket, Path: "/subscribe", Rules: []policy.Rule{
				{Allow: policy.Match{OperationType: "subscription", OperationName: "News", Fields: []string{"news"}}},
				{Allow: policy.Match{Method: "GET", Path: "/subscribe", QueryExact: true}}}},
			{Host: "mcp.example", Ports: []uint16{443}, Protocol: policy.MCP, Path: "/mcp", L7: policy.L7{MCPMaxBody: 9000, MCPLooseToolNames: true}, Rules: []policy.Rule{
				{Allow: policy.Match{Method: "ping", Path: "/mcp", QueryExact: true}},
				{Allow: policy.Match{Method: "tools/call", Path: "/mcp", QueryExact: true, Tool: []string{"find it"}}}}},
			{Host: "plain.cdn.example", Ports: []uint16{443}, Protocol: policy.REST, Rules: []policy.Rule{{Allow: policy.Match{Method: "GET", Path: "/plain", QueryExact: true}}}},
			{Host: "socket.cdn.example", Ports: []uint16{443}}, // of a websocket that nobody reads, all is said by its host
		}},
		{Key: "nc", Binaries: []policy.Binary{{Path: "/usr/bin/nc"}}, Endpoints: []policy.Endpoint{
			{Host: "db.example", Ports: []uint16{5432}, Protocol: policy.TCP, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.4.0.7/32")}},
		}},
		{Key: "psql", Binaries: []policy.Binary{{Path: "/usr/bin/psql"}}, Endpoints: []policy.Endpoint{
			{Host: "db.example", Ports: []uint16{5432}, Protocol: policy.TCP, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.4.0.7/32")}},
		}},
	})
	if !strings.Contains(text, want) {
		t.Errorf("used:\n%s\nwant:\n%s", text, want)
	}
	for _, must := range []string{`#       - host: "evil.example"`, `#           - allow: {method: "DELETE", path: "/v1/items", query: {"token": "*"}, query_exact: true}`, `path: "/v1/audited", `,
		"# not learned: model.local:80 is a service of the host", "# not learned: 127.0.0.1:80 is this host", "# not learned: chat.example:443: binary messages of a websocket are not in events",
		"# not learned: silent.example:443: nothing was called at /mcp", "# not learned: mcp.example:443: a request cannot be written as a rule: POST /mcp",
		"# not learned: mcp.example:443: a request cannot be written as a rule: POST /long", "# not learned: both.example:443: a request cannot be written as a rule: POST /graphs",
		`#           - allow: {method: "POST", path: "/graphql", query_exact: true, operation_type: mutation, fields: ["star"]}`,
		"# not learned: api.example:443: a request cannot be written as a rule: GET /v1/*", "# not learned: a program that a rule cannot name"} {
		if !strings.Contains(text, must) {
			t.Errorf("%q is missing in\n%s", must, text)
		}
	}
	for _, never := range []string{"hunter2", `host: "127.0.0.1"`, `host: "::1"`, `host: "localhost"`, `host: "169.254.169.254"`, `host: "model.local"`, "b.cdn.example", "rebound", "/v1/secrets"} {
		if strings.Contains(text, never) {
			t.Errorf("%q is in\n%s", never, text)
		}
	}
}

// TestLearn_odd: what was read by another policy than that of the start is no rule, the
// memory that it takes is bounded, and a file that is no policy says so.
func TestLearn_odd(t *testing.T) {
	l, name := learning(t)
	tell := func(host, method, path string, all ...event.Operation) {
		l.event(event.Request(event.HTTP{Method: method, Path: path, Scheme: "https", Operations: all},
			event.Who{Exe: "/usr/bin/curl"}, event.Where{Host: host, Port: 443}, event.Verdict{Disposition: event.Allowed, Rule: "api"}))
	}
	tell("api.example", "POST", "/calls", event.Operation{Method: "ping"})
	tell("api.example", policy.MethodText, "/texts")
	tell("api.example", "GET", "/control")
	for i := range maxLearned + 10 {
		tell("silent.example", "GET", fmt.Sprint("/", i))
	}
	if n := l.used[flow{"silent.example", 443, "/usr/bin/curl"}].held; n != maxLearned {
		t.Errorf("%d readings are held, want %d", n, maxLearned)
	}
	for i := range 2 * maxRequests / maxLearned { // programs
		for j := range maxLearned {
			l.event(event.Request(event.HTTP{Method: "GET", Path: fmt.Sprint("/", j)}, event.Who{Exe: fmt.Sprint("/usr/bin/x", i)},
				event.Where{Host: "api.example", Port: 443}, event.Verdict{Disposition: event.Allowed, Rule: "api"}))
		}
	}
	if l.held != maxRequests {
		t.Errorf("%d requests are held, want %d", l.held, maxRequests)
	}
	l.used = map[flow]*evidence{{"api.example", 443, "/usr/bin/curl"}: l.used[flow{"api.example", 443, "/usr/bin/curl"}]}
	l.held = 0
	tell("chat.example", policy.MethodText, "/both")
	tell("chat.example", policy.MethodText, "/both", event.Operation{Type: "query", Fields: []string{"x"}})
	if err := l.close([]byte(learnPolicy)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if _, _, err := policy.Parse("out.yaml", b); err == nil || !strings.HasPrefix(text, "# This is no policy yet: ") {
		t.Errorf("%v\n%.300s", err, text)
	}
	if strings.Contains(text, `path: "/calls"`) || strings.Contains(text, `path: "/texts"`) || !strings.Contains(text, `path: "/control"`) {
		t.Errorf("learned %s", text[strings.Index(text, "network_policies:"):])
	}
}

// TestLearnFile: the file is new, and no link of somebody else's choice.
func TestLearnFile(t *testing.T) {
	dir := t.TempDir()
	there, link := filepath.Join(dir, "there"), filepath.Join(dir, "link")
	if err := os.WriteFile(there, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{there, link} {
		if _, err := newLearner(name, nil); err == nil {
			t.Errorf("newLearner(%s) took a file that is there", filepath.Base(name))
		}
	}
	if b, err := os.ReadFile(there); err != nil || string(b) != "x" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("a link was followed")
	}
	l, err := newLearner(filepath.Join(dir, "new"), nil) // control
	if err != nil {
		t.Fatal(err)
	}
	if err := l.close(nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if p, _, err := policy.Parse("new", b); err != nil || !p.Filesystem.IncludeWorkdir || len(p.Network) != 0 {
		t.Errorf("learned of nothing: %+v, %v\n%s", p, err, b)
	}
}

// TestLearn_lateEvent: events that come while the learner ends wait for it.
func TestLearn_lateEvent(t *testing.T) {
	l, err := newLearner(filepath.Join(t.TempDir(), "new"), nil)
	if err != nil {
		t.Fatal(err)
	}
	late := make(chan bool)
	stop := make(chan bool)
	go func() {
		defer close(late)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			l.event(event.Connection(event.Open, event.Who{Exe: fmt.Sprint("/usr/bin/x", i%maxLearned)}, event.Where{Host: "a.example", Port: 443}, event.Verdict{Disposition: event.Allowed}))
		}
	}()
	said := ""
	l.done(func(s string) { said = s }, nil)
	close(stop)
	<-late
	if !strings.Contains(said, "connections of") {
		t.Errorf("said: %s", said)
	}
}
