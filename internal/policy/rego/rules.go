package rego

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// everyPath is the pattern of what names no path.
const everyPath = "**"

// inspected is an endpoint whose requests are judged.
type inspected struct {
	endpoint
	id       int
	term     *ast.Term // id
	selector string    // the paths that it takes in
	rpc      bool      // a rule's method is that of a call
	allow    ruleSet
	deny     ruleSet
}

// inspect compiles an endpoint's rules; it is nil for an endpoint without any.
func inspect(id int, np *policy.NetworkPolicy, at int) (*inspected, error) {
	ep := &np.Endpoints[at]
	if !(endpoint{np, at}).reads() {
		return nil, nil
	}
	presets, known := accesses[ep.Protocol]
	if !known {
		return nil, fmt.Errorf("protocol %q is not known", ep.Protocol)
	}
	x := &inspected{
		endpoint: endpoint{np, at}, id: id, term: ast.InternedTerm(id), selector: ep.Path,
		rpc: ep.Protocol == policy.JSONRPC || ep.Protocol == policy.MCP,
	}
	if x.selector == "" {
		x.selector = everyPath
	}
	x.deny.denies = true
	for i := range presets[ep.Access] {
		x.allow.add(rule{match: &presets[ep.Access][i], line: ep.Line, rpc: x.rpc})
	}
	if ep.L7.MCPAllKnownMethods {
		for _, method := range policy.MCPMethods {
			x.allow.add(rule{match: &policy.Match{Method: method}, line: ep.Line, rpc: x.rpc})
		}
	}
	for i := range ep.Rules {
		x.allow.add(rule{match: &ep.Rules[i].Allow, line: ep.Rules[i].Line, rpc: x.rpc})
	}
	for i := range ep.DenyRules {
		x.deny.add(rule{match: &ep.DenyRules[i], line: ep.DenyRules[i].Line, rpc: x.rpc})
	}
	return x, nil
}

// accesses are what the words of access stand for. A protocol without any is inspected all the same.
var accesses = map[policy.Protocol]map[string][]policy.Match{
	policy.REST: {
		"read-only":  {{Method: "GET"}, {Method: "OPTIONS"}},
		"read-write": {{Method: "GET"}, {Method: "OPTIONS"}, {Method: "POST"}, {Method: "PUT"}, {Method: "PATCH"}},
		"full":       {{Method: "*"}},
	},
	policy.WebSocket: {
		"read-only":  {{Method: "GET"}},
		"read-write": {{Method: "GET"}, {Method: policy.MethodText}},
		"full":       {{Method: "*"}},
	},
	policy.GraphQL: {
		"read-only":  {{OperationType: "query"}},
		"read-write": {{OperationType: "query"}, {OperationType: "mutation"}},
		"full":       {{OperationType: "*"}},
	},
	policy.JSONRPC: {},
	policy.MCP:     {},
}

// ruleSet finds the rules of an endpoint that match a part of a request, without walking over them.
type ruleSet struct {
	denies  bool
	paths   match.Paths[*shelf]
	shelves map[string]*shelf
}

// shelf holds the rules of one path pattern by what sets them apart most, and those without such a thing.
type shelf struct {
	marked map[mark][]*rule
	rest   []*rule
}

// mark is a value that a part must have exactly for a rule to match.
type mark struct{ of, value string }

// rule is one rule with its place in the policy file.
type rule struct {
	match *policy.Match
	line  int
	rpc   bool
}

// add files a rule. Rules that deny take a path in any letter case, and with a slash behind it: servers differ in
// whether that is another path.
func (s *ruleSet) add(r rule) {
	pattern := r.match.Path
	if pattern == "" {
		pattern = everyPath
	}
	if s.denies {
		pattern = strings.ToLower(pattern)
	}
	on := s.shelves[pattern]
	if on == nil {
		if s.shelves == nil {
			s.shelves = map[string]*shelf{}
		}
		on = &shelf{marked: map[mark][]*rule{}}
		s.shelves[pattern] = on
		s.paths.Add(pattern, on)
	}
	marks, all := r.marks()
	for _, m := range marks {
		on.marked[m] = append(on.marked[m], &r)
	}
	if !all {
		on.rest = append(on.rest, &r)
	}
}

// marks are values of which a part must have one; all is false if there is another way for the rule to match.
func (r *rule) marks() (marks []mark, all bool) {
	m := r.match
	of, values := "method", []string{m.Method}
	switch {
	case len(m.Tool) > 0:
		of, values = "tool", m.Tool
	case len(m.Fields) > 0:
		// An operation whose fields are not known could have any of them.
		of, values = "field", append([]string{""}, m.Fields...)
	case m.OperationName != "":
		of, values = "name", []string{m.OperationName}
	case m.Method == "":
		return nil, false
	}
	all = true
	for _, v := range values {
		switch {
		case strings.ContainsAny(v, "*?"):
			all = false
		case of == "method" && !r.rpc:
			v = strings.ToUpper(v)
			marks = append(marks, mark{of, v})
			if v == "GET" {
				marks = append(marks, mark{of, "HEAD"})
			}
		default:
			marks = append(marks, mark{of, v})
		}
	}
	return marks, all
}

// find returns a rule that matches a part, nil if none does.
func (s *ruleSet) find(p *part) *rule {
	if len(s.shelves) == 0 {
		return nil
	}
	var found [8]*shelf
	for _, on := range s.onPath(found[:0], p.path) {
		if r := on.find(p, s.denies); r != nil {
			return r
		}
	}
	return nil
}

func (s *ruleSet) onPath(found []*shelf, path string) []*shelf {
	if !s.denies {
		return s.paths.Match(found, path)
	}
	path = strings.ToLower(path)
	found = s.paths.Match(found, path)
	if short := strings.TrimRight(path, "/"); short != path && short != "" {
		found = s.paths.Match(found, short)
	}
	return found
}

func (on *shelf) find(p *part, denies bool) *rule {
	for _, m := range p.marks() {
		for _, r := range on.marked[m] {
			if r.matches(p, denies) {
				return r
			}
		}
	}
	for _, r := range on.rest {
		if r.matches(p, denies) {
			return r
		}
	}
	return nil
}

// matches looks at everything but the path.
func (r *rule) matches(p *part, denies bool) bool {
	m := r.match
	if !queryMatches(m, p.query, denies) || !operationMatches(m, p, denies) {
		return false
	}
	if r.rpc {
		return callMatches(m, p.call, denies)
	}
	return m.Method == "" || m.Method == "*" || strings.EqualFold(m.Method, p.method) || p.method == "HEAD" && strings.EqualFold(m.Method, "GET")
}

// queryMatches: a rule that allows needs every value of its keys to match, and with query_exact no other key; one that
// denies needs a single value.
func queryMatches(m *policy.Match, got map[string][]string, denies bool) bool {
	for key := range got {
		if _, named := m.Query[key]; !named && m.QueryExact && !denies {
			return false
		}
	}
	for key, globs := range m.Query {
		values := got[key]
		fits := func(v string) bool { return anyGlob(globs, v) }
		switch {
		case len(values) == 0:
			return false
		case denies && !slices.ContainsFunc(values, fits):
			return false
		case !denies && slices.ContainsFunc(values, func(v string) bool { return !fits(v) }):
			return false
		}
	}
	return true
}

// operationMatches compares what a rule says of GraphQL operations, if anything. A field that is not known is
// not allowed by a rule that names some, and is denied by it.
func operationMatches(m *policy.Match, p *part, denies bool) bool {
	if !m.AboutOperations() {
		return true
	}
	switch {
	case p.op == nil,
		m.OperationType != "" && m.OperationType != "*" && m.OperationType != p.op.Type,
		m.OperationName != "" && !match.Glob(m.OperationName, p.op.Name):
		return false
	case len(m.Fields) == 0:
		return true
	case p.field == "":
		return denies
	}
	return anyGlob(m.Fields, p.field)
}

// callMatches compares what a rule says of a call. Without a call only a rule that says nothing of one matches.
func callMatches(m *policy.Match, c *policy.Call, denies bool) bool {
	switch {
	case c == nil:
		return (m.Method == "" || m.Method == "*") && len(m.Tool) == 0 && len(m.Params) == 0
	case m.Method != "" && !match.Glob(m.Method, c.Method):
		return false
	case len(m.Tool) > 0 && (c.Method != toolsCall || !anyGlob(m.Tool, c.Tool)):
		return false
	}
	for key, globs := range m.Params {
		v, is := c.Params[key]
		switch {
		case is && anyGlob(globs, v):
		case !is && denies && composite(c.Params, key):
		default:
			return false
		}
	}
	return true
}

// composite tells whether a parameter is an object or a list: it has no text that could be compared.
func composite(params map[string]string, key string) bool {
	for k := range params {
		if strings.HasPrefix(k, key) && len(k) > len(key) && k[len(key)] == '.' {
			return true
		}
	}
	return false
}

func anyGlob(globs []string, s string) bool {
	return slices.ContainsFunc(globs, func(g string) bool { return match.Glob(g, s) })
}

// selectorsOf files the paths of all endpoints, each once, and collects the endpoints in audit.
func selectorsOf(all []*inspected) (match.Paths[string], *ast.Term) {
	var paths match.Paths[string]
	seen := map[string]bool{}
	audit := ast.NewSet()
	for _, x := range all {
		if x == nil {
			continue
		}
		if !seen[x.selector] {
			seen[x.selector] = true
			paths.Add(x.selector, x.selector)
		}
		if x.get().Audit {
			audit.Add(x.term)
		}
	}
	return paths, settled(audit)
}
