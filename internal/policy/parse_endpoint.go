package policy

import (
	"net/netip"
	"slices"

	"github.com/goccy/go-yaml/ast"

	"sallyport/internal/policy/match"
)

// alwaysRefused are the ranges that no allowed_ips can open.
var alwaysRefused = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("fd00:ec2::254/128"),
}

// maxBody is the ceiling of every body limit, in bytes.
const maxBody = 16 << 20

var protocols = []string{"tcp", "rest", "websocket", "graphql", "json-rpc", "mcp"}

func (d *decoder) endpoint(n ast.Node) Endpoint {
	e := Endpoint{}
	e.Line, _ = position(n)
	var matches []written
	match := func(n ast.Node, use use) Match {
		w := d.match(n)
		w.use = use
		matches = append(matches, w)
		return w.Match
	}
	f := d.l7Fields(&e, match)
	for k, read := range (fields{
		"host":        func(n ast.Node) { e.Host = d.host(n, "host") },
		"port":        func(n ast.Node) { d.addPort(n, &e) },
		"ports":       d.list("ports", 64, func(n ast.Node) { d.addPort(n, &e) }),
		"path":        func(n ast.Node) { d.pattern(n, "path", &e.Path) },
		"protocol":    func(n ast.Node) { d.protocol(n, &e) },
		"tls":         d.word("tls", func(i int) { e.TLSSkip = i == 1 }, "auto", "skip"),
		"enforcement": d.word("enforcement", func(i int) { e.Audit = i == 1 }, "enforce", "audit"),
		"access":      d.word("access", func(i int) { e.Access = []string{"read-only", "read-write", "full"}[i] }, "read-only", "read-write", "full"),
		"rules": d.list("rules", 1024, func(n ast.Node) {
			r := Rule{}
			r.Line, _ = position(n)
			seen := d.mapping(n, "a rule", fields{"allow": func(n ast.Node) { r.Allow = match(n, allows) }})
			d.need(n, "a rule", seen, "allow")
			e.Rules = append(e.Rules, r)
		}),
		"deny_rules":  d.list("deny_rules", 1024, func(n ast.Node) { e.DenyRules = append(e.DenyRules, match(n, denies)) }),
		"allowed_ips": d.list("allowed_ips", 256, func(n ast.Node) { d.allowedIP(n, &e) }),
		"pin":         d.word("pin", func(i int) { e.PinRefresh = i == 1 }, "session", "refresh"),
		"relay":       d.word("relay", func(i int) { e.RelayDirect = i == 1 }, "proxy", "direct"),
	}) {
		f[k] = read
	}
	before := len(d.errs)
	seen := d.mapping(n, "an endpoint", f)
	if len(d.errs) == before {
		d.checkEndpoint(n, e, seen)
		d.checkRules(&e, seen, matches)
	}
	return e
}

func (d *decoder) l7Fields(e *Endpoint, match func(ast.Node, use) Match) fields {
	l := &e.L7
	return fields{
		"allow_encoded_slash":             d.boolean(&l.AllowEncodedSlash, "allow_encoded_slash"),
		"websocket_credential_rewrite":    d.boolean(&l.WebSocketCredentialRewrite, "websocket_credential_rewrite"),
		"request_body_credential_rewrite": d.boolean(&l.RequestBodyCredentialRewrite, "request_body_credential_rewrite"),
		"allow_uninspected_credentials":   d.boolean(&l.AllowUninspectedCredentials, "allow_uninspected_credentials"),
		"persisted_queries": d.word("persisted_queries", func(i int) {
			l.PersistedQueries = []string{"deny", "allow_registered"}[i]
		}, "deny", "allow_registered"),
		"graphql_persisted_queries": func(n ast.Node) {
			l.RegisteredQueries = map[string]Match{}
			d.named(n, "graphql_persisted_queries", func(id string, _, v ast.Node) { l.RegisteredQueries[id] = match(v, registers) })
		},
		"graphql_max_body_bytes": d.size(&l.GraphQLMaxBody, "graphql_max_body_bytes", maxBody),
		"json_rpc": func(n ast.Node) {
			d.mapping(n, "json_rpc", fields{"max_body_bytes": d.size(&l.JSONRPCMaxBody, "max_body_bytes", maxBody)})
		},
		"mcp": func(n ast.Node) {
			strict := true
			d.mapping(n, "mcp", fields{
				"max_body_bytes":              d.size(&l.MCPMaxBody, "max_body_bytes", maxBody),
				"strict_tool_names":           d.boolean(&strict, "strict_tool_names"),
				"allow_all_known_mcp_methods": d.boolean(&l.MCPAllKnownMethods, "allow_all_known_mcp_methods"),
			})
			l.MCPLooseToolNames = !strict
		},
		"credential_signing": d.word("credential_signing", func(i int) {
			l.CredentialSigning = []string{"sigv4", "sigv4:body", "sigv4:no_body"}[i]
		}, "sigv4", "sigv4:body", "sigv4:no_body"),
		"signing_service": d.text(&l.SigningService, "signing_service"),
		"signing_region":  d.text(&l.SigningRegion, "signing_region"),
		"credential_binding": func(n ast.Node) {
			seen := d.mapping(n, "credential_binding", fields{"provider": d.text(&l.CredentialProvider, "provider")})
			d.need(n, "credential_binding", seen, "provider")
		},
	}
}

func (d *decoder) addPort(n ast.Node, e *Endpoint) {
	p, ok := d.port(n, "port")
	switch {
	case ok && slices.Contains(e.Ports, p):
		d.fail(n, "port %d is listed twice", p)
	case ok:
		e.Ports = append(e.Ports, p)
	}
}

func (d *decoder) protocol(n ast.Node, e *Endpoint) {
	if s, is := n.(*ast.StringNode); is && s.Value == "sql" {
		d.fail(n, "protocol: sql statements cannot be enforced yet; use protocol: tcp to allow the connection as a whole")
		return
	}
	d.word("protocol", func(i int) { e.Protocol = Protocol(protocols[i]) }, protocols...)(n)
}

// host reads a host pattern and gives its canonical form.
func (d *decoder) host(n ast.Node, what string) string {
	var s string
	d.text(&s, what)(n)
	if s == "" {
		return ""
	}
	h, err := match.HostPattern(s)
	if err != nil {
		d.fail(n, "%s: %v", what, err)
	}
	return h
}

func (d *decoder) pattern(n ast.Node, what string, to *string) {
	before := len(d.errs)
	d.text(to, what)(n)
	if len(d.errs) > before || *to == "" {
		return
	}
	if wrong := pathPattern(*to); wrong != "" {
		d.fail(n, "%s: %q: %s", what, clip(*to), wrong)
	}
}

func (d *decoder) allowedIP(n ast.Node, e *Endpoint) {
	var s string
	d.text(&s, "allowed_ips")(n)
	p, err := prefixOf(s)
	if err != nil {
		d.fail(n, "allowed_ips: %q: %v", clip(s), err)
		return
	}
	for _, r := range alwaysRefused {
		if p.Overlaps(r) {
			d.fail(n, "allowed_ips: %v overlaps %v, which is never reachable; services of this host are opened by host_services", p, r)
			return
		}
	}
	e.AllowedIPs = append(e.AllowedIPs, p)
}

// match reads a match. What is empty is refused: it would match everything.
func (d *decoder) match(n ast.Node) written {
	w := written{at: n}
	m := &w.Match
	m.Line, _ = position(n)
	before := len(d.errs)
	w.seen = d.mapping(n, "a match", fields{
		"method":         d.text(&m.Method, "method"),
		"path":           func(n ast.Node) { d.pattern(n, "path", &m.Path) },
		"query":          d.globs(&m.Query, "query"),
		"query_exact":    d.boolean(&m.QueryExact, "query_exact"),
		"operation_type": d.word("operation_type", func(i int) { m.OperationType = operations[i] }, operations...),
		"operation_name": d.text(&m.OperationName, "operation_name"),
		"fields":         d.texts(&m.Fields, "fields", 256),
		"tool":           func(n ast.Node) { m.Tool = d.anyOf(n, "tool") },
		"params":         d.globs(&m.Params, "params"),
	})
	if len(w.seen) == 0 {
		d.fail(n, "a match without a field would match everything; say method: \"*\" if that is meant")
	}
	if len(d.errs) > before {
		return w
	}
	for field, empty := range map[string]bool{
		"method": m.Method == "", "path": m.Path == "", "query": len(m.Query) == 0, "operation_name": m.OperationName == "",
		"fields": len(m.Fields) == 0 || slices.Contains(m.Fields, ""), "tool": len(m.Tool) == 0 || slices.Contains(m.Tool, ""), "params": len(m.Params) == 0,
	} {
		if at := w.seen[field]; at != nil && empty {
			d.fail(at, "%s is empty and would match everything; leave it out or give it a value", field)
		}
	}
	return w
}

var operations = []string{"query", "mutation", "subscription", "*"}

// globs reads a mapping of names to a glob or to {any: [globs]}.
func (d *decoder) globs(to *map[string][]string, what string) func(ast.Node) {
	return func(n ast.Node) {
		*to = map[string][]string{}
		d.named(n, what, func(key string, _, v ast.Node) { (*to)[key] = d.anyOf(v, what) })
	}
}

func (d *decoder) anyOf(n ast.Node, what string) []string {
	if _, is := n.(*ast.StringNode); is {
		var s string
		d.text(&s, what)(n)
		return []string{s}
	}
	var out []string
	seen := d.mapping(n, what, fields{"any": d.texts(&out, "any", maxGlobs)})
	d.need(n, what, seen, "any")
	if seen["any"] != nil && len(out) == 0 {
		d.fail(n, "%s: any without a value matches nothing", what)
	}
	return out
}
