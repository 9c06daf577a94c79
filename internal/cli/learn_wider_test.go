package cli

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/internal/egress/l7/http"
	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/policy/rego"
)

// sessionPolicy allows everything that the property's session asks for.
const sessionPolicy = `version: 1
network_policies:
  wide:
    endpoints:
      - {host: "*.rest.example", ports: [443, 8443], protocol: rest, enforcement: enforce, access: full, allow_encoded_slash: true}
      - {host: "*.raw.example", ports: [80, 443]}
      - {host: graphql.example, port: 443, protocol: graphql, enforcement: enforce, access: full, graphql_max_body_bytes: 1000}
      - {host: rpc.example, port: 443, protocol: json-rpc, enforcement: enforce, rules: [{allow: {method: "*"}}]}
      - {host: socket.example, port: 443, protocol: websocket, enforcement: enforce, access: read-write}
      - {host: subscribe.example, port: 443, protocol: websocket, enforcement: enforce, rules: [{allow: {method: GET}}, {allow: {operation_type: "*"}}]}
      - {host: mcp.example, port: 443, protocol: mcp, enforcement: enforce, mcp: {allow_all_known_mcp_methods: true}}
    binaries: [{path: "/usr/**"}]
`

// asked is one use of the network. Without a method it is a connection that nobody reads.
type asked struct {
	in             rego.Input
	method, target string
	ops            []policy.Operation // to graphql.example, or in a message to subscribe.example
	calls          []policy.Call      // to rpc.example and mcp.example
}

func genAsked(t *rapid.T) asked {
	of := func(label string, some ...string) string { return rapid.SampledFrom(some).Draw(t, label) }
	a := asked{in: rego.Input{Exe: of("exe", "/usr/bin/curl", "/usr/bin/git", "/usr/lib/x y/node")}}
	a.in.Port = rapid.SampledFrom([]uint16{443, 443, 80, 8443}).Draw(t, "port")
	a.in.Host = of("host", "a.rest.example", "b.rest.example", "a.raw.example", "graphql.example", "rpc.example", "mcp.example", "socket.example", "subscribe.example")
	if of("read", "yes", "yes", "yes", "no") == "yes" {
		a.method = of("method", "GET", "HEAD", "POST", "DELETE", "WEIRD")
		a.target = of("path", "/", "/a", "/a/", "/A", "/a/b", "/a%2Fb", "/a%20b", "/a*", "/a?") // the last has no query
		if a.target != "/a?" {
			a.target += of("query", "", "", "", "", "", "?", "?q=1", "?q=2", "?q=1&q=2", "?r=1", "?q=1&r=2", "?Q=1", "?q", "?=1", "?q=", "?q%00=1", "?a%0Ab=1", "?%FF=1", "?%5Bredacted%5D=1", "?null=1&%22:{}=2")
		}
	}
	a.ask(of)
	return a
}

// ask gives a request something to ask for in its body.
func (a *asked) ask(of func(label string, some ...string) string) {
	several := func(add func()) {
		add()
		if of("more", "no", "no", "yes") == "yes" {
			add()
		}
	}
	switch {
	case a.method == "":
	case a.in.Host == "socket.example":
		a.method = of("by", "GET", policy.MethodText)
	case a.in.Host == "graphql.example", a.in.Host == "subscribe.example":
		a.method = of("by", "GET", map[string]string{"graphql.example": "POST", "subscribe.example": policy.MethodText}[a.in.Host])
		if a.in.Host == "subscribe.example" && a.method == "GET" {
			break // it opens the websocket
		}
		several(func() {
			o := policy.Operation{Type: of("type", "query", "mutation"), Name: of("name", "", "A", "B")}
			several(func() { o.Fields = append(o.Fields, of("field", "x", "y", "z")) })
			a.ops = append(a.ops, o)
		})
	case a.in.Host == "rpc.example", a.in.Host == "mcp.example" && a.method != "GET" && a.method != "DELETE":
		a.method = "POST"
		several(func() {
			c := policy.Call{Method: of("call", "tools/call", "tools/list", "ping")}
			if a.in.Host == "mcp.example" && c.Method == "tools/call" {
				c.Tool = of("tool", "read", "write")
			}
			a.calls = append(a.calls, c)
		})
	}
}

// changed is a with one thing taken from another.
func (a asked) changed(t *rapid.T) asked {
	b := rapid.Custom(genAsked).Draw(t, "other")
	path, query, _ := strings.Cut(a.target, "?")
	otherPath, otherQuery, _ := strings.Cut(b.target, "?")
	change := rapid.IntRange(0, 7).Draw(t, "change")
	if len(a.ops)+len(a.calls) > 0 && change%2 == 1 {
		change = 4
	}
	switch change {
	case 0:
		b.in.Exe, b.in.Port, b.target = a.in.Exe, a.in.Port, a.target
		return b
	case 1:
		a.in.Port = b.in.Port
	case 2:
		a.in.Exe = b.in.Exe
	case 3:
		if len(a.calls) == 0 && (len(a.ops) == 0 || a.in.Host == "graphql.example") { // else the method says how they are sent
			a.method = b.method
		}
	case 4, 5:
		a.askOther(t)
	case 6:
		a.target = otherPath + "?" + query
	default:
		a.target = path + "?" + otherQuery
	}
	return a
}

// askOther changes one thing of what the body asks for.
func (a *asked) askOther(t *rapid.T) {
	of := func(some ...string) string { return rapid.SampledFrom(some).Draw(t, "one thing") }
	if len(a.ops) > 0 {
		a.ops = slices.Clone(a.ops)
		switch o := &a.ops[0]; of("type", "name", "fields") {
		case "type":
			o.Type = of("query", "mutation")
		case "name":
			o.Name = of("", "A", "B")
		default:
			o.Fields = []string{of("x", "y", "z")}
		}
	}
	if len(a.calls) > 0 {
		a.calls = slices.Clone(a.calls)
		if c := &a.calls[0]; c.Tool == "" || of("method", "tool") == "method" {
			*c = policy.Call{Method: of("tools/list", "ping")}
		} else {
			c.Tool = of("read", "write")
		}
	}
}

// kind is what the language can tell a request by: everything but the values of its query.
func (a asked) kind() (kind string, req policy.Request, ok bool) {
	to, err := http.Parse(a.target)
	if err != nil {
		return "", req, false
	}
	kind = a.method + " " + to.Path
	for _, key := range slices.Sorted(maps.Keys(to.Query)) {
		kind += "\x00" + key
	}
	return kind, policy.Request{Method: a.method, Path: to.Path, Query: to.Query}, true
}

// tell gives the learner the events that the proxy would make.
func (a asked) tell(l *learner, allowed bool) {
	v := event.Verdict{Disposition: event.Allowed, Rule: "wide"}
	if !allowed {
		v = event.Verdict{Reason: rego.ReasonRequest, Rule: "wide"}
	}
	where := event.Where{Host: a.in.Host, Port: a.in.Port}
	if a.method == "" {
		l.event(event.Connection(event.Open, event.Who{Exe: a.in.Exe}, where, v))
		return
	}
	if to, err := http.Parse(a.target); err == nil {
		r := event.HTTP{Method: a.method, Path: to.Path, RawQuery: to.Raw, Scheme: "https"}
		for _, o := range a.ops {
			r.Operations = append(r.Operations, event.Operation{Type: o.Type, Name: o.Name, Fields: o.Fields})
		}
		for _, c := range a.calls {
			r.Operations = append(r.Operations, event.Operation{Method: c.Method, Tool: c.Tool})
		}
		l.event(event.Request(r, event.Who{Exe: a.in.Exe}, where, v))
	}
}

// place is where, and by which program.
func (a asked) place() flow { return flow{a.in.Host, a.in.Port, a.in.Exe} }

// TestLearn_neverWider: what is learned of any session allows what was seen and could be written down, and of what was not
// seen, nothing: no other program, host, port, method, path or key of a query, no operation and no tool.
func TestLearn_neverWider(t *testing.T) {
	session, _, err := policy.Parse("session.yaml", []byte(sessionPolicy))
	if err != nil {
		t.Fatal(err)
	}
	under, err := rego.Compile(session, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"rapid.seed": "1", "rapid.checks": "300", "rapid.nofailfile": "true"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue { // the same inputs in every run
			f.Value.Set(value)
		}
	}
	dir, n := t.TempDir(), map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		name := filepath.Join(dir, "out.yaml")
		l, err := newLearner(name, session)
		if err != nil {
			rt.Fatal(err)
		}
		defer os.Remove(name)
		var seen []asked
		for _, a := range rapid.SliceOfN(rapid.Custom(genAsked), 1, 12).Draw(rt, "session") {
			ok := allowedBy(rt, under, a) != "no"
			a.tell(l, ok)
			if ok {
				seen = append(seen, a)
			}
		}
		if err := l.close([]byte(sessionPolicy)); err != nil {
			rt.Fatal(err)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			rt.Fatal(err)
		}
		p, warnings, err := policy.Parse("out.yaml", text)
		if err != nil || len(warnings) > 0 {
			rt.Fatalf("%v %v\n%s", warnings, err, text)
		}
		e, err := rego.Compile(p, 1)
		if err != nil {
			rt.Fatal(err)
		}
		tried := append(rapid.SliceOfN(rapid.Custom(genAsked), 5, 5).Draw(rt, "tried"), seen...)
		for _, a := range seen {
			for range 4 {
				tried = append(tried, a.changed(rt))
			}
		}
		for _, a := range tried {
			got, want := allowedBy(rt, e, a), expected(seen, a)
			if got != want {
				rt.Fatalf("%+v: allowed %q, want %q, under\n%s", a, got, want, text)
			}
			n[want]++
			n[want+" "+a.in.Host]++
		}
	})
	for _, must := range []string{"no", "request", "connection", "request graphql.example", "no graphql.example", "request rpc.example", "no rpc.example", "request mcp.example", "no mcp.example", "request socket.example", "no socket.example", "request subscribe.example", "no subscribe.example"} {
		if n[must] < 20 {
			t.Errorf("%q was expected %d times: little was compared", must, n[must])
		}
	}
}

// allowedBy says what a policy lets pass: "request", "connection" (whatever is in it) or "no".
func allowedBy(t *rapid.T, e *rego.Engine, a asked) string {
	conn, err := e.Decide(t.Context(), a.in)
	switch {
	case err != nil:
		t.Fatal(err)
	case !conn.Allow:
		return "no"
	case conn.Endpoint.Protocol == policy.Raw:
		return "connection"
	}
	_, req, ok := a.kind()
	if a.method == "" || !ok {
		return "no"
	}
	req.Operations, req.Calls = a.ops, a.calls
	if strings.HasSuffix(a.in.Host, ".rest.example") || strings.HasSuffix(a.in.Host, ".raw.example") {
		// Whatever a body holds is the same to a rule of rest.
		req.Calls = []policy.Call{{Method: "tools/call", Tool: "x"}}
		req.Operations = []policy.Operation{{Type: "mutation", Fields: []string{"x"}}}
	}
	res, err := e.DecideRequest(t.Context(), a.in, req)
	if err != nil {
		t.Fatal(err)
	}
	if res.Allow {
		return "request"
	}
	return "no"
}

// expected is what a learned policy has to let pass, by a walk over what the session was allowed.
func expected(seen []asked, a asked) string {
	here := slices.DeleteFunc(slices.Clone(seen), func(s asked) bool { return s.place() != a.place() })
	if a.in.Host == "a.raw.example" && slices.ContainsFunc(here, func(s asked) bool { return s.method == "" }) {
		return "connection"
	}
	_, req, ok := a.kind()
	if a.method == "" || !ok || !nameable(req) {
		return "no"
	}
	here = slices.DeleteFunc(here, func(s asked) bool {
		return s.method == "" || strings.HasSuffix(s.target, "?q") // it may be a secret, and is not in the event
	})
	parts := a.parts()
	if a.in.Host == "mcp.example" && len(a.calls) == 0 {
		// It needs no rule, but an endpoint with one for its path, and for its query if it has one.
		parts = []func(asked) bool{func(s asked) bool {
			_, seen, _ := s.kind()
			return len(s.calls) > 0 && nameable(seen) && seen.Path == req.Path && (len(req.Query) == 0 || sameKeys(seen.Query, req.Query))
		}}
		if a.method != "GET" && a.method != "DELETE" {
			return "no"
		}
	}
	for _, covers := range parts {
		if !slices.ContainsFunc(here, covers) {
			return "no"
		}
	}
	return "request"
}

// parts tell of each thing that is asked for whether another request was about it.
func (a asked) parts() (parts []func(s asked) bool) {
	kind, req, _ := a.kind()
	head := a
	head.method = map[string]string{"HEAD": "GET"}[a.method] // HEAD is allowed where GET is
	get, _, _ := head.kind()
	alike := func(s asked) bool {
		k, seen, _ := s.kind()
		if a.in.Host == "subscribe.example" && len(a.ops) > 0 {
			return nameable(seen) && seen.Path == req.Path // the query is that of the GET before
		}
		return k == kind || k == get
	}
	for _, o := range a.ops {
		for _, field := range o.Fields {
			parts = append(parts, func(s asked) bool {
				return alike(s) && slices.ContainsFunc(s.ops, func(seen policy.Operation) bool {
					return seen.Type == o.Type && (seen.Name == "" || seen.Name == o.Name) && slices.Contains(seen.Fields, field)
				})
			})
		}
	}
	for _, c := range a.calls {
		parts = append(parts, func(s asked) bool {
			return alike(s) && slices.ContainsFunc(s.calls, func(seen policy.Call) bool { return seen.Method == c.Method && seen.Tool == c.Tool })
		})
	}
	if len(parts) == 0 {
		parts = append(parts, alike)
	}
	return parts
}

func sameKeys(a, b map[string][]string) bool {
	return slices.Equal(slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b)))
}

// nameable says whether a rule can mean this request and no other.
func nameable(r policy.Request) bool {
	for _, odd := range []string{"", "a\nb", "\xff", "[redacted]"} {
		if _, has := r.Query[odd]; has {
			return false
		}
	}
	return r.Path != "/a*"
}
