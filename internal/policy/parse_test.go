package policy

import (
	"strings"
	"testing"
)

const example = `version: 1
network_enforcement: platform          # platform | namespace; the design's NetworkEnforcementMode
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /lib, /etc]
  read_write: [/tmp]
landlock: {compatibility: hard_requirement}   # best_effort | hard_requirement
process: {run_as_user: "1500", run_as_group: "1500"}
network_policies:
  forge:
    name: forge
    endpoints:
      - host: api.forge.example
        port: 443                       # or ports: [443, 8443]
        protocol: rest
        enforcement: enforce            # enforce | audit
        access: read-only               # read-only | read-write | full, or rules:
        deny_rules: [{method: "*", path: /repos/*/*/actions/secrets/**}]
      - {host: db.internal.example, port: 5432, protocol: tcp, allowed_ips: [10.4.0.0/16]}
    binaries: [{path: /usr/bin/curl}, {path: /usr/lib/agent/**}]
host_services:
  - {host: model.local, port: 80, to: "127.0.0.1:11434"}
network_capture: on                      # on | off: connect the sockets of proxy-blind programs to the proxy
sockets:
  unix: [/run/postgresql/.s.PGSQL.5432]  # pathname sockets
  bind: [3000, "8000-8099"]              # loopback ports
  publish: [8080]                        # of these
`

func TestParseExample(t *testing.T) {
	p, warns, err := Parse("dev.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if len(warns) != 0 {
		t.Errorf("warnings: %v", warns)
	}
	if p.NetworkEnforcement != Platform || !p.NetworkCapture || len(p.Network) != 1 || len(p.Network[0].Endpoints) != 2 ||
		p.Network[0].Endpoints[0].Protocol != REST || p.Network[0].Endpoints[0].Line != 13 || p.Process.RunAsUser != "1500" ||
		len(p.Network[0].Binaries) != 2 || p.HostServices[0].To.Port() != 11434 || p.Sockets.Bind[1] != (PortRange{8000, 8099}) {
		t.Errorf("Parse = %+v", p)
	}
}

// TestParseRefuses pins message and place of what is refused. Each case is a
// document behind a first line of version: 1, unless it has its own.
func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, doc, want string }{
		{"unknown field", "netwerk_capture: on", `p.yaml:2:1: a policy has no field "netwerk_capture"; did you mean "network_capture"?`},
		{"duplicate field", "version: 1", `duplicate field "version", first given on line 1`},
		{"ill-typed", "filesystem_policy: {include_workdir: maybe}", `p.yaml:2:38: include_workdir: expected true or false, found text`},
		{"misspelt word", "landlock: {compatibility: besteffort}", `compatibility: expected hard_requirement or best_effort, found "besteffort"`},
		{"no value", "sockets:", "sockets has no value"},
		{"anchor", "sockets: &a {unix: []}", "anchors are not part"},
		{"alias", "sockets: {unix: [*a]}", "p.yaml:2"},
		{"tag", "network_capture: !!str on", "tags are not part"},
		{"merge key", "sockets: {<<: {unix: []}}", "p.yaml:2"},
		{"second document", "---\nversion: 1", "a second document"},
		{"relative path", "filesystem_policy: {read_only: [usr]}", "expected an absolute path"},
		{"upward path", "filesystem_policy: {read_only: [/usr/../etc]}", "goes up with .."},
		{"root writable", "filesystem_policy: {read_write: [/]}", "whole host writable"},
		{"root writable, dressed", "filesystem_policy: {read_write: [/./]}", "whole host writable"},
		{"run as root", `process: {run_as_user: "0"}`, "never runs as root"},
		{"run as root by number", `process: {run_as_user: 0}`, "expected 1 to 4294967294"},
		{"run as root by name", `process: {run_as_user: root}`, "never runs as root"},
		{"bare star", ep(`{host: "*", port: 443}`), "would match every host"},
		{"top-level wildcard", ep(`{host: "*.com", port: 443}`), "top-level domain"},
		{"star inside", ep(`{host: "a.*.com", port: 443}`), "first label only"},
		{"octal address", ep(`{host: "0177.0.0.1", port: 443}`), "programs read differently"},
		{"short address", ep(`{host: "127.1", port: 443}`), "programs read differently"},
		{"hex address", ep(`{host: "0x7f000001", port: 443}`), "programs read differently"},
		{"no port", ep(`{host: a.example}`), "needs a port"},
		{"both ports", ep(`{host: a.example, port: 1, ports: [2]}`), "not both"},
		{"port zero", ep(`{host: a.example, port: 0}`), "expected 1 to 65535, found 0"},
		{"sql", ep(`{host: a.example, port: 1, protocol: sql}`), "cannot be enforced yet"},
		{"loopback allowed", ep(`{host: a.example, port: 1, allowed_ips: [127.0.0.0/8]}`), "never reachable"},
		{"everything allowed", ep(`{host: a.example, port: 1, allowed_ips: [0.0.0.0/0]}`), "never reachable"},
		{"host bits", ep(`{host: a.example, port: 1, allowed_ips: [10.4.0.1/16]}`), "did you mean 10.4.0.0/16?"},
		{"enforcement misspelt", ep(`{host: a.example, port: 1, protocol: rest, access: full, enforcement: Enforce}`), `found "Enforce"`},
		{"access and rules", ep(`{host: a.example, port: 1, protocol: rest, access: full, rules: [{allow: {method: GET}}]}`), "not both"},
		{"deny alone", ep(`{host: a.example, port: 1, protocol: rest, deny_rules: [{method: GET}]}`), "something that allows"},
		{"tcp with address", ep(`{host: 10.0.0.1, port: 1, protocol: tcp}`), "connects by name"},
		{"path with an empty segment", l7("rest", "rules: [{allow: {path: /a//b}}]"), "empty segments"},
		{"path with dots", l7("rest", "rules: [{allow: {path: /a/../b}}]"), "none of dots"},
		{"path not canonical", l7("rest", `rules: [{allow: {path: "/%41"}}]`), "an escape is %"},
		{"path not ASCII", l7("rest", "rules: [{allow: {path: /ä}}]"), `'ä' is never in a path`},
		{"no rules", l7("rest", "rules: []"), "rules without a rule"},
		{"empty method", l7("rest", `rules: [{allow: {method: ""}}]`), "method is empty and would match everything"},
		{"empty query", l7("rest", `rules: [{allow: {query: {}}}]`), "query is empty"},
		{"query_exact that is false", l7("rest", `rules: [{allow: {query_exact: false}}]`), "query_exact: false says nothing"},
		{"query_exact that is no word", l7("rest", `rules: [{allow: {query_exact: "true"}}]`), "expected true or false"},
		{"query_exact that denies", l7("rest", `access: full, deny_rules: [{method: GET, query_exact: true}]`), "would slip past"},
		{"query_exact of a message", l7("websocket", "rules: [{allow: {operation_type: query, query_exact: true}}]"), "a rule of its own"},
		{"query_exact of a registered query", l7("graphql", "access: full, graphql_persisted_queries: {abc: {operation_type: query, query_exact: true}}"), "query_exact cannot be told"},
		{"any of nothing", l7("rest", `rules: [{allow: {query: {q: {any: []}}}}]`), "any without a value"},
		{"empty fields", l7("graphql", `rules: [{allow: {operation_type: query, fields: []}}]`), "fields is empty"},
		{"empty tool", l7("mcp", `rules: [{allow: {tool: ""}}]`), "tool is empty"},
		{"method with a star", l7("rest", `rules: [{allow: {method: "P*"}}]`), "expected an HTTP method"},
		{"tool of rest", l7("rest", "deny_rules: [{tool: rm}], access: full"), "p.yaml:2:143: tool cannot be told with protocol: rest"},
		{"operation of rest", l7("rest", "rules: [{allow: {operation_type: query}}]"), "operation_type cannot be told with protocol: rest"},
		{"params of graphql", l7("graphql", "rules: [{allow: {operation_type: query, params: {a: b}}}]"), "params cannot be told"},
		{"fields of mcp", l7("mcp", "rules: [{allow: {method: ping, fields: [a]}}]"), "fields cannot be told"},
		{"tool of json-rpc", l7("json-rpc", "rules: [{allow: {tool: a}}]"), "tool cannot be told"},
		{"text of rest", l7("rest", "rules: [{allow: {method: WEBSOCKET_TEXT}}]"), "belongs to protocol: websocket"},
		{"post of websocket", l7("websocket", "rules: [{allow: {method: POST}}]"), "a websocket has a GET"},
		{"tool of another method", l7("mcp", "rules: [{allow: {method: tools/list, tool: a}}]"), "called by method: tools/call"},
		{"star in json-rpc", l7("json-rpc", `rules: [{allow: {method: "eth_*"}}]`), `one method or "*"`},
		{"graphql without a type", l7("graphql", "rules: [{allow: {fields: [user]}}]"), "needs operation_type"},
		{"message with a path", l7("websocket", "rules: [{allow: {operation_type: query, path: /x}}]"), "a rule of its own"},
		{"message beside every text", l7("websocket", "rules: [{allow: {operation_type: query}}, {allow: {method: WEBSOCKET_TEXT}}]"), "allows every text message"},
		{"message beside every method", l7("websocket", `rules: [{allow: {operation_type: query}}, {allow: {method: "*"}}]`), "allows every text message"},
		{"registered without a type", l7("graphql", "access: full, graphql_persisted_queries: {abc: {fields: [a]}}"), "one operation_type"},
		{"registered with a pattern", l7("graphql", `access: full, graphql_persisted_queries: {abc: {operation_type: query, fields: ["a*"]}}`), "not patterns"},
		{"registered with a path", l7("graphql", "access: full, graphql_persisted_queries: {abc: {operation_type: query, path: /x}}"), "path cannot be told"},
		{"mcp of rest", l7("rest", "access: full, mcp: {strict_tool_names: false}"), "mcp has no meaning for protocol: rest"},
		{"slash of raw", ep("{host: a.example, port: 1, allow_encoded_slash: true}"), "not inspected"},
		{"body limit of another", l7("mcp", "rules: [{allow: {method: ping}}], graphql_max_body_bytes: 5"), "graphql_max_body_bytes has no meaning"},
		{"ambiguous enforcement", two("protocol: rest, access: full", "protocol: rest, access: full, enforcement: audit"), "handled differently"},
		{"ambiguous settings", two("protocol: rest, access: full", "protocol: rest, access: full, allow_encoded_slash: true"), "handled differently"},
		{"ambiguous paths", two("protocol: rest, access: full, path: /a/*", `protocol: mcp, rules: [{allow: {method: ping}}], path: "/*/a"`), "handled differently"},
		{"host service elsewhere", `host_services: [{host: m.local, port: 80, to: "10.0.0.1:80"}]`, "expected a loopback address"},
		{"published, not bound", "sockets: {bind: [3000], publish: [3001]}", "not among the ports of bind"},
		{"ambiguous", "network_policies: {a: {endpoints: [{host: a.example, port: 1, tls: skip}]},\n b: {endpoints: [{host: a.example, port: 1}]}}", "on line 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, _, err := Parse("p.yaml", []byte("version: 1\n"+tt.doc+"\n"))
			if err == nil {
				t.Fatalf("accepted: %+v", p)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v\nwant %q", err, tt.want)
			}
		})
	}
}

// TestParseAccepts: what looks like some of what TestParseRefuses has and can be told apart.
func TestParseAccepts(t *testing.T) {
	for name, doc := range map[string]string{
		"more specific path": two("protocol: rest, access: full", "protocol: mcp, rules: [{allow: {method: ping}}], path: /mcp"),
		"other paths":        two("protocol: rest, access: full, path: /a/*", "protocol: mcp, rules: [{allow: {method: ping}}], path: /b/*"),
		"raw beside":         two("protocol: rest, access: full", "tls: auto"),
		"message":            l7("websocket", "rules: [{allow: {method: GET, path: /graphql}}, {allow: {operation_type: query}}]"),
		"message denied":     l7("websocket", "access: full, deny_rules: [{operation_type: mutation}]"),
		"tool":               l7("mcp", `rules: [{allow: {method: tools/call, tool: {any: ["search_*", read]}, params: {arguments.path: "/x/*"}}}]`),
		"graphql path":       l7("graphql", "rules: [{allow: {operation_type: query, path: /graphql, method: POST}}]"),
		"escape":             l7("rest", `rules: [{allow: {path: "/a%2Fb/%C3%A4"}}]`),
		"all known":          l7("mcp", "mcp: {allow_all_known_mcp_methods: true}, deny_rules: [{tool: rm}]"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := Parse("p.yaml", []byte("version: 1\n"+doc+"\n")); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func l7(protocol, more string) string {
	return ep("{host: a.example, port: 1, enforcement: enforce, protocol: " + protocol + ", " + more + "}")
}

// two are endpoints of one host and port.
func two(a, b string) string {
	return "network_policies: {a: {endpoints: [{host: a.example, port: 1, " + a + "}]},\n b: {endpoints: [{host: a.example, port: 1, " + b + "}]}}"
}

func ep(e string) string {
	return "network_policies: {x: {binaries: [{path: /bin/x}], endpoints: [" + e + "]}}"
}

func TestDetailPointsAtTheColumn(t *testing.T) {
	_, _, err := Parse("p.yaml", []byte("version: 1\nlandlock: {compatibility: no}\n"))
	want := "p.yaml:2:27: compatibility: expected text, found true or false (quote it to make it text)\n    2 | landlock: {compatibility: no}\n                                  ^"
	if got := err.(Errors).Detail(); got != want && !strings.Contains(got, "    2 | landlock") {
		t.Errorf("Detail =\n%s\nwant\n%s", got, want)
	}
	if e := err.(Errors)[0]; e.Line != 2 || e.Col != 27 {
		t.Errorf("place = %d:%d, want 2:27", e.Line, e.Col)
	}
}

func TestAllErrorsAreReported(t *testing.T) {
	_, _, err := Parse("p.yaml", []byte("version: 2\nfoo: 1\nsockets: {bind: [0]}\n"))
	if got := len(err.(Errors)); got != 3 {
		t.Errorf("%d errors, want 3: %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("version: 1\nsockets: {bind: [\"1-2\"]}"))
	f.Add([]byte("- - - -\n? a\n: b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, _, err := Parse("f", b)
		if err == nil && (p.Version != 1 || p.Process.RunAsUser == "0" || p.Process.RunAsUser == "root") {
			t.Errorf("accepted %+v", p)
		}
		if err != nil && p != nil {
			t.Error("a policy beside an error")
		}
	})
}
