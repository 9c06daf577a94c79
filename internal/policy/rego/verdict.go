package rego

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/internal/policy"
)

// verdict is what follows for a request from the rules that match its parts.
type verdict struct {
	permitted, audited bool
	refusing           []int // endpoints with a deny rule that holds
	unmatched          []int // places in the list of parts
}

// matchRules finds for each part the endpoints of which a rule matches it.
func (e *Engine) matchRules(f *field, parts []part, req *policy.Request) {
	reader := e.inspected[f.selected[0]].get().Protocol
	for _, id := range f.selected {
		x := e.inspected[id]
		for i := range parts {
			if x.get().Protocol != reader {
				break // a policy that was parsed has no such endpoint
			}
			if x.carries(&parts[i]) {
				parts[i].allow.add(id, nil)
			} else if r := x.allow.find(&parts[i]); r != nil {
				parts[i].allow.add(id, r)
			}
		}
	}
	for _, id := range f.taking {
		x := e.inspected[id]
		if x.get().Protocol != reader {
			x.forbid(&parts[0], req)
			continue
		}
		for i := range parts {
			if r := x.deny.find(&parts[i]); r != nil {
				parts[i].deny.add(id, r)
			}
		}
	}
}

// forbid finds a deny rule of an endpoint for a request that is read by the rules of another protocol.
func (x *inspected) forbid(first *part, req *policy.Request) {
	own, _ := x.partsOf(req)
	if own == nil {
		own = []part{{method: req.Method, path: req.Path, query: req.Query}}
	}
	for i := range own {
		if r := x.deny.find(&own[i]); r != nil {
			first.deny.add(x.id, r)
			return
		}
	}
}

// verdict puts the second question of request.rego. Parts with the same endpoints are one: a request of many
// parts makes no larger question than a small one.
func (e *Engine) verdict(wait func() *patience, f *field, parts []part) (verdict, error) {
	var buf [256]byte
	key := numbers(numbers(buf[:0], f.selected), f.taking)
	var distinct []*part
	for i := range parts {
		p := &parts[i]
		if slices.ContainsFunc(distinct, p.alike) {
			continue
		}
		distinct = append(distinct, p)
		key = numbers(numbers(key, p.allow.ids), p.deny.ids)
	}
	return e.verdicts.get(key, func() (verdict, error) { return e.askVerdict(wait(), f, distinct) })
}

func (p *part) alike(o *part) bool {
	return slices.Equal(p.allow.ids, o.allow.ids) && slices.Equal(p.deny.ids, o.deny.ids)
}

func (e *Engine) askVerdict(wait *patience, f *field, parts []*part) (v verdict, err error) {
	terms := make([]*ast.Term, len(parts))
	for i, p := range parts {
		terms[i] = ast.ObjectTerm(ast.Item(keyAllow, e.idSet(p.allow.ids)), ast.Item(keyDeny, e.idSet(p.deny.ids)))
	}
	input := ast.ObjectTerm(
		ast.Item(keyTaking, f.takingTerm),
		ast.Item(keySelected, f.selectedTerm),
		ast.Item(keyAudit, e.audit),
		ast.Item(keyParts, ast.ArrayTerm(terms...)),
	)
	if v.permitted, err = e.askWhether(wait, e.program.permitted, input); err != nil || v.permitted {
		return v, err
	}
	if v.audited, err = e.askWhether(wait, e.program.audited, input); err != nil {
		return v, err
	}
	if v.refusing, err = e.askInts(wait, e.program.refusing, input); err != nil {
		return v, err
	}
	v.unmatched, err = e.askInts(wait, e.program.unmatched, input)
	return v, err
}

// askWhether puts a question that is answered by true or not at all.
func (e *Engine) askWhether(wait *patience, question ast.Body, input *ast.Term) (bool, error) {
	value, err := e.ask(wait, question, input)
	if err != nil || value == nil {
		return false, err
	}
	if yes, ok := value.(ast.Boolean); ok && bool(yes) {
		return true, nil
	}
	return false, errUndefined
}

func (e *Engine) askInts(wait *patience, question ast.Body, input *ast.Term) ([]int, error) {
	value, err := e.ask(wait, question, input)
	if err != nil {
		return nil, err
	}
	set, ok := value.(ast.Set)
	if !ok {
		return nil, errUndefined
	}
	var out []int
	for _, t := range set.Slice() {
		n, ok := intOf(t)
		if !ok {
			return nil, errUndefined
		}
		out = append(out, n)
	}
	return out, nil
}

// requestResult puts a verdict into words.
func (e *Engine) requestResult(in Input, req *policy.Request, f *field, parts []part, v verdict) RequestResult {
	first := e.inspected[f.selected[0]]
	if v.permitted {
		by, line := first, first.get().Line
		if a := parts[0].allow; len(a.ids) > 0 {
			by, line = e.inspected[a.ids[0]], e.inspected[a.ids[0]].get().Line
			if a.rule != nil {
				line = a.rule.line
			}
		}
		return RequestResult{Allow: true, Reason: ReasonAllowed, Generation: e.generation, Policy: by.policy.Key, Line: line, Endpoint: first.get()}
	}
	var res RequestResult
	if i := slices.IndexFunc(parts, func(p part) bool { return p.deny.rule != nil }); i >= 0 {
		by := e.inspected[parts[i].deny.ids[0]]
		res = e.requestDenied(by, parts[i].deny.rule.line, ReasonDenyRule, fmt.Sprintf("a deny rule of policy %q forbids %s", by.policy.Key, &parts[i]))
	} else {
		i := max(slices.IndexFunc(parts, func(p part) bool { return len(p.allow.ids) == 0 }), 0)
		res = e.requestDenied(first, first.get().Line, ReasonRequest, fmt.Sprintf("no rule of policy %q allows %s", first.policy.Key, &parts[i]))
		res.Missing = first.missing(in, req, &parts[i])
	}
	res.Endpoint = first.get()
	if v.audited {
		res.Allow, res.Audited = true, true
	}
	return res
}

func (e *Engine) requestDenied(by *inspected, line int, reason, detail string) RequestResult {
	return RequestResult{
		Reason: reason, Detail: detail, Generation: e.generation, Policy: by.policy.Key, Line: line, Endpoint: by.get(),
	}
}

// missing is the narrowest rule that would allow a part, nil if the language cannot say it.
func (x *inspected) missing(in Input, req *policy.Request, p *part) *RequestMissing {
	if in.Exe == "" {
		return nil
	}
	m := &RequestMissing{RuleMissing: RuleMissing{in.Host, in.Port, in.Exe}, Policy: x.policy.Key, Protocol: x.get().Protocol}
	named := true
	switch {
	case p.transport:
		return nil // no rule is about it
	case p.call != nil:
		m.Allow.Method = p.call.Method
		if p.call.Tool != "" {
			m.Allow.Tool = []string{p.call.Tool}
		}
	case p.op != nil:
		m.Allow.OperationType = p.op.Type
		if p.field != "" {
			m.Allow.Fields = []string{p.field}
		}
	default:
		m.Allow, named = policy.Match{Method: req.Method, Path: req.Path}.OfQuery(req.Query)
	}
	if !named || !expressible(m.Allow) {
		return nil
	}
	return m
}

// expressible says whether a match made of a request is about its method, path, tool and fields and no other: the
// language has no way to write a star that is one.
func expressible(m policy.Match) bool {
	return !strings.ContainsAny(m.Method+m.Path+strings.Join(m.Tool, "")+strings.Join(m.Fields, ""), "*?")
}
