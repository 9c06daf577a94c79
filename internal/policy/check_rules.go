package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// matchFields are the fields of a match that each protocol can be held to. Any
// other would look like a rule and be none.
var matchFields = map[Protocol][]string{
	REST:      {"method", "path", "query", "query_exact"},
	WebSocket: {"method", "path", "query", "query_exact", "operation_type", "operation_name", "fields"},
	GraphQL:   {"method", "path", "query", "query_exact", "operation_type", "operation_name", "fields"},
	JSONRPC:   {"method", "path", "query", "query_exact", "params"},
	MCP:       {"method", "path", "query", "query_exact", "tool", "params"},
}

// settings are the fields of an endpoint that belong to some protocols only.
var settings = map[string][]Protocol{
	"allow_encoded_slash":             {REST, WebSocket, GraphQL, JSONRPC, MCP},
	"websocket_credential_rewrite":    {REST, WebSocket},
	"request_body_credential_rewrite": {REST, GraphQL, JSONRPC, MCP},
	"persisted_queries":               {GraphQL, WebSocket},
	"graphql_persisted_queries":       {GraphQL, WebSocket},
	"graphql_max_body_bytes":          {GraphQL, WebSocket},
	"json_rpc":                        {JSONRPC},
	"mcp":                             {MCP},
}

// written is a match with where it stands and what it is for.
type written struct {
	Match
	at   ast.Node
	seen map[string]ast.Node
	use  use
}

type use uint8

const (
	allows use = iota
	denies
	registers // graphql_persisted_queries
)

// checkRules holds the matches of an endpoint against its protocol.
func (d *decoder) checkRules(e *Endpoint, seen map[string]ast.Node, all []written) {
	for field, of := range settings {
		if seen[field] != nil && !slices.Contains(of, e.Protocol) {
			d.fail(seen[field], "%s has no meaning for %s", field, e.Protocol.title())
		}
	}
	for _, w := range all {
		known := matchFields[e.Protocol]
		if w.use == registers {
			known = []string{"operation_type", "operation_name", "fields"}
		}
		for field, at := range w.seen {
			if !slices.Contains(known, field) {
				d.fail(at, "%s cannot be told with %s; a match can have %s", field, e.Protocol.title(), strings.Join(known, ", "))
			}
		}
		for _, wrong := range w.wrong(e) {
			d.fail(w.place(wrong.field), "%s", wrong.msg)
		}
	}
}

func (p Protocol) title() string {
	if p == Raw {
		return "a connection that is not inspected"
	}
	return "protocol: " + string(p)
}

// place is where a field of the match is, or the match.
func (w *written) place(field string) ast.Node {
	if n := w.seen[field]; n != nil {
		return n
	}
	return w.at
}

type wrongField struct{ field, msg string }

// wrong lists what a match cannot be held to, or says otherwise than it looks.
func (w *written) wrong(e *Endpoint) []wrongField {
	rpc := e.Protocol == JSONRPC || e.Protocol == MCP
	operation := w.AboutOperations()
	plain := w.Method != "" || w.Path != "" || len(w.Query) > 0 || w.QueryExact
	var out []wrongField
	for _, c := range []struct {
		wrong bool
		field string
		msg   string
	}{
		{!rpc && w.Method != "" && w.Method != "*" && !httpMethod(w.Method), "method",
			fmt.Sprintf("method: expected an HTTP method or \"*\", found %q", clip(w.Method))},
		{e.Protocol == JSONRPC && w.Method != "*" && strings.ContainsAny(w.Method, "*?"), "method",
			"method: of json-rpc is one method or \"*\""},
		{strings.EqualFold(w.Method, MethodText) && e.Protocol != WebSocket, "method", "method: " + MethodText + " belongs to protocol: websocket"},
		{e.Protocol == WebSocket && w.use == allows && w.Method != "" && !slices.Contains([]string{"*", "GET", MethodText}, strings.ToUpper(w.Method)), "method",
			"method: a websocket has a GET that opens it, and " + MethodText},
		{len(w.Tool) > 0 && w.Method != "" && w.Method != "tools/call", "tool", "tool: a tool is called by method: tools/call"},
		{e.Protocol == GraphQL && w.use == allows && w.OperationType == "", "operation_type",
			"a graphql rule needs operation_type, or it allows mutations too; say operation_type: \"*\" if that is meant"},
		{e.Protocol == WebSocket && operation && plain, "operation_type",
			"operations are those of a message; the GET that opens the websocket has a rule of its own"},
		{e.Protocol == WebSocket && operation && w.use == allows && allowsText(e), "operation_type",
			"another rule, or access, allows every text message of this websocket"},
		{w.seen["query_exact"] != nil && !w.QueryExact, "query_exact", "query_exact: false says nothing; leave it out"},
		{w.use == denies && w.QueryExact, "query_exact", "query_exact: a key more in the query would slip past a rule that denies"},
		{w.use == registers && (w.OperationType == "" || w.OperationType == "*"), "operation_type",
			"a registered query has one operation_type: query, mutation or subscription"},
		{w.use == registers && strings.ContainsAny(w.OperationName+strings.Join(w.Fields, ""), "*?"), "fields",
			"a registered query has fields, not patterns for them"},
	} {
		if c.wrong {
			out = append(out, wrongField{c.field, c.msg})
		}
	}
	return out
}

// allowsText says whether an endpoint allows text messages whatever is in them.
func allowsText(e *Endpoint) bool {
	return e.Access == "read-write" || e.Access == "full" || slices.ContainsFunc(e.Rules, func(r Rule) bool {
		m := r.Allow
		return m.OperationType == "" && m.OperationName == "" && len(m.Fields) == 0 && strings.ToUpper(m.Method) != "GET"
	})
}

// httpMethod says whether s is a method as clients send them, RFC 9110 section 9.1.
func httpMethod(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if !(c >= 'a' && c <= 'z' || s[i] == '-' || s[i] == '_') {
			return false
		}
	}
	return len(s) <= 32
}

// ReadsOperations says whether what a websocket's client sends is to be read as
// GraphQL: some rule is about operations.
func (e *Endpoint) ReadsOperations() bool {
	return e.Protocol == GraphQL || e.Protocol == WebSocket &&
		(slices.ContainsFunc(e.Rules, func(r Rule) bool { return r.Allow.AboutOperations() }) || slices.ContainsFunc(e.DenyRules, Match.AboutOperations))
}

// pathPattern says what keeps a pattern from matching any path: paths are
// matched in their canonical form.
func pathPattern(p string) string {
	if !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "**") {
		return "expected a pattern that starts with / or **"
	}
	if len(p) > 4096 {
		return "a pattern is at most 4096 characters long"
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c <= ' ' || c >= 0x7f || c == '\\' || c == '#' || c == ';':
			return fmt.Sprintf("%q is never in a path; write it as it is sent, percent-encoded", []rune(p[i:])[0])
		case c == '%' && !canonicalEscape(p[i:]):
			return "an escape is % and two upper-case hexadecimal digits, and letters, digits, - . _ ~ have none"
		}
	}
	elements := strings.Split(p, "/")
	for i, s := range elements {
		if s == "." || s == ".." || s == "" && i > 0 && i < len(elements)-1 {
			return "a path that is matched has no empty segments and none of dots"
		}
	}
	return ""
}

func canonicalEscape(s string) bool {
	const digits = "0123456789ABCDEF"
	if len(s) < 3 {
		return false
	}
	hi, lo := strings.IndexByte(digits, s[1]), strings.IndexByte(digits, s[2])
	if hi < 0 || lo < 0 {
		return false
	}
	c := byte(hi<<4 | lo)
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0)
}
