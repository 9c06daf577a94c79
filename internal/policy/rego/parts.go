package rego

import (
	"fmt"
	"slices"
	"strings"

	"sallyport/internal/policy"
)

// toolsCall is the MCP method that calls a tool.
const toolsCall = "tools/call"

// part is one thing that a request asks for. All of a request's parts have to be allowed.
type part struct {
	method, path string
	query        map[string][]string
	op           *policy.Operation
	field        string // root field of op; empty if op's fields are not known
	call         *policy.Call
	transport    bool // a request of MCP without a call

	allow, deny found
}

// found is the endpoints with a rule that matches a part, and the rule of the first of them. There is none if an
// endpoint allows it without.
type found struct {
	ids  []int
	rule *rule
}

func (f *found) add(id int, r *rule) {
	if f.ids == nil {
		f.rule = r
	}
	f.ids = append(f.ids, id)
}

// marks are what rules can be filed under that match this part.
func (p *part) marks() [4]mark {
	m := [4]mark{{"method", p.method}}
	if p.call != nil {
		m[0].value = p.call.Method
		m[1] = mark{"tool", p.call.Tool}
	}
	if p.op != nil {
		m[2] = mark{"field", p.field}
		m[3] = mark{"name", p.op.Name}
	}
	return m
}

// String names the part for people.
func (p *part) String() string {
	switch {
	case p.call != nil && p.call.Tool != "":
		return fmt.Sprintf("the tool %q", p.call.Tool)
	case p.call != nil:
		return fmt.Sprintf("the call %q", p.call.Method)
	case p.op != nil && p.field != "":
		return fmt.Sprintf("the %s %q", p.op.Type, p.field)
	case p.op != nil:
		return fmt.Sprintf("a %s", p.op.Type)
	case p.transport && len(p.query) > 0:
		return p.method + " " + p.path + " with this query"
	}
	return p.method + " " + p.path
}

// partsOf takes a request apart as the rules of an endpoint see it. With a reason it cannot be judged, and is
// denied whatever the rules say.
func (x *inspected) partsOf(req *policy.Request) (parts []part, reason string) {
	ep := x.get()
	plain := part{method: req.Method, path: req.Path, query: req.Query}
	text := req.Method == policy.MethodText
	switch {
	case req.Method == "" || text && ep.Protocol != policy.WebSocket:
		return nil, ReasonNotUnderstood
	case ep.Protocol == policy.REST, ep.Protocol == policy.WebSocket && (!text || len(req.Operations) == 0):
		return []part{plain}, ""
	case ep.Protocol == policy.GraphQL, ep.Protocol == policy.WebSocket:
		return operations(ep, plain, req.Operations)
	case len(req.Calls) > 0:
		return calls(ep, plain, req.Calls)
	case ep.Protocol == policy.MCP && (req.Method == "GET" || req.Method == "DELETE"):
		// A client listens to its server, or ends its session: there is no call to judge.
		plain.transport = true
		return []part{plain}, ""
	}
	return nil, ReasonNotUnderstood
}

// carries says whether an endpoint allows a request without a call, for which no rule is needed. It could tell the
// server something in its query: where every rule closes the query, it has one that a rule names, or none.
func (x *inspected) carries(p *part) bool {
	if !p.transport {
		return false
	}
	return len(p.query) == 0 || !x.get().ClosesQuery() || slices.ContainsFunc(x.get().Rules, func(r policy.Rule) bool {
		return queryMatches(&r.Allow, p.query, false)
	})
}

func operations(ep *policy.Endpoint, plain part, ops []policy.Operation) (parts []part, reason string) {
	known := []string{"query", "mutation", "subscription"}
	for i := range ops {
		op := &ops[i]
		if op.Persisted != "" {
			q, registered := ep.L7.RegisteredQueries[op.Persisted]
			if !registered || ep.L7.PersistedQueries != "allow_registered" {
				return nil, ReasonPersisted
			}
			parts = plain.operation(parts, &policy.Operation{Type: q.OperationType, Name: q.OperationName, Fields: q.Fields})
			if op.Type == "" {
				continue
			}
		}
		if !slices.Contains(known, op.Type) {
			return nil, ReasonNotUnderstood
		}
		parts = plain.operation(parts, op)
	}
	if len(parts) == 0 {
		return nil, ReasonNotUnderstood
	}
	return parts, ""
}

// operation appends a part for each root field.
func (p part) operation(parts []part, op *policy.Operation) []part {
	p.op = op
	if len(op.Fields) == 0 {
		return append(parts, p)
	}
	for _, p.field = range op.Fields {
		parts = append(parts, p)
	}
	return parts
}

func calls(ep *policy.Endpoint, plain part, all []policy.Call) (parts []part, reason string) {
	for i := range all {
		plain.call = &all[i]
		switch {
		case plain.call.Method == "":
			return nil, ReasonNotUnderstood
		case ep.Protocol != policy.MCP || plain.call.Method != toolsCall:
		case plain.call.Tool == "", !ep.L7.MCPLooseToolNames && !strictTool(plain.call.Tool):
			return nil, ReasonTool
		}
		parts = append(parts, plain)
	}
	return parts, ""
}

// strictTool says whether a tool has a name that every server reads alike: what strict_tool_names asks for. The
// reader has looked at it as well; this is not left to it.
func strictTool(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	return len(name) <= 128 && strings.Trim(name, letters) == ""
}
