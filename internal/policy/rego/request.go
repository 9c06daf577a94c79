package rego

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// Reasons of a [RequestResult] beside those of a [Result], which it has if the connection is not allowed.
const (
	ReasonPath          = "path_not_allowed"               // no inspected endpoint takes the path in
	ReasonRequest       = "request_not_allowed"            // no rule allows it
	ReasonDenyRule      = "request_denied_by_rule"         // a deny rule forbids it
	ReasonNotUnderstood = "request_not_understood"         // it asks for nothing that a rule could be about
	ReasonPersisted     = "persisted_query_not_registered" // a query that the policy does not know
	ReasonTool          = "tool_name_not_allowed"          // a tool without a name, or with one that servers read differently
)

// RequestResult is a decision about a request. The zero value is a denial. What it points to belongs to the
// policy and is read-only.
type RequestResult struct {
	Allow bool
	// Audited is a request that would be denied, for Reason, and passes because the endpoint is in audit. It is to
	// be reported.
	Audited    bool
	Reason     string // one of the Reason codes
	Detail     string // a sentence for people
	Generation uint64 // of the policy that decided

	Policy   string           // key of the policy whose endpoint or rule decided
	Line     int              // of the rule in the policy file, or of the endpoint if no rule decided
	Endpoint *policy.Endpoint // that takes the request in; nil if none does

	// Missing is the narrowest rule that would allow what was denied, nil when no rule would.
	Missing *RequestMissing
}

// RequestMissing is a rule for one host, one port, one binary and one kind of request.
type RequestMissing struct {
	RuleMissing
	Policy   string          // key of the policy to which it could be added; empty for a policy of its own
	Protocol policy.Protocol // of the endpoint
	Allow    policy.Match
}

// field is the endpoints that take a request in.
type field struct {
	taking, selected []int // ids in order; selected are those with the most specific path
	takingTerm       *ast.Term
	selectedTerm     *ast.Term
}

// EndpointFor tells which endpoint owns a canonical path on the host and port of in: the one that says how the
// request is to be read. It is nil if none does; such a request is denied. The error is as for Decide.
func (e *Engine) EndpointFor(ctx context.Context, in Input, path string) (ep *policy.Endpoint, err error) {
	defer recovered(&err)
	f, err := e.field(func() *patience { return e.newPatience(ctx) }, in, path)
	if err != nil || len(f.selected) == 0 {
		return nil, err
	}
	return e.endpoints[f.selected[0]].get(), nil
}

// DecideRequest tells whether a request may pass on the connection of in. The error is as for Decide.
func (e *Engine) DecideRequest(ctx context.Context, in Input, req policy.Request) (res RequestResult, err error) {
	defer func() {
		if err != nil {
			res = RequestResult{Reason: reasonOf(err), Generation: e.generation}
			res.Detail = detail(in, res.Reason)
		}
	}()
	defer recovered(&err)
	var began *patience
	wait := func() *patience { // one for both questions, if one of them is put
		if began == nil {
			began = e.newPatience(ctx)
		}
		return began
	}
	f, err := e.field(wait, in, req.Path)
	if err != nil {
		return res, err
	}
	if len(f.selected) == 0 {
		return e.notTaken(ctx, in, &req)
	}
	first := e.inspected[f.selected[0]]
	parts, reason := first.partsOf(&req)
	if reason != "" {
		return e.requestDenied(first, first.get().Line, reason, "cannot be judged: "+notJudged[reason]), nil
	}
	e.matchRules(f, parts, &req)
	v, err := e.verdict(wait, f, parts)
	if err != nil {
		return res, err
	}
	return e.requestResult(in, &req, f, parts, v), nil
}

// notJudged says why a request is denied without a look at the rules.
var notJudged = map[string]string{
	ReasonNotUnderstood: "it asks for nothing that a rule of this endpoint could be about",
	ReasonPersisted:     "it names a persisted query that graphql_persisted_queries does not list",
	ReasonTool:          "it calls a tool without a name, or by one that servers could read differently",
}

// notTaken is the denial of a request that no inspected endpoint takes in.
func (e *Engine) notTaken(ctx context.Context, in Input, req *policy.Request) (RequestResult, error) {
	conn, err := e.Decide(ctx, in)
	if err != nil {
		return RequestResult{}, err
	}
	res := RequestResult{Reason: conn.Reason, Detail: conn.Detail, Generation: e.generation}
	allow, named := policy.Match{Method: req.Method, Path: req.Path}.OfQuery(req.Query)
	missing := &RequestMissing{Protocol: policy.REST, Allow: allow}
	if conn.Allow {
		res.Reason, res.Policy, res.Line = ReasonPath, conn.Policy, conn.Line
		res.Detail = fmt.Sprintf("no inspected endpoint for host %q and port %d takes in the path %q", in.Host, in.Port, req.Path)
		missing.RuleMissing = RuleMissing{in.Host, in.Port, in.Exe}
	} else if conn.Missing != nil {
		missing.RuleMissing = *conn.Missing
	}
	if named && missing.Binary != "" && expressible(missing.Allow) {
		res.Missing = missing
	}
	return res, nil
}

// field finds the endpoints that take a path in.
func (e *Engine) field(wait func() *patience, in Input, path string) (*field, error) {
	var found [8]*hostPattern
	var selectors [8]string
	hosts := e.hosts.match(found[:0], in.Host)
	paths := e.selectors.Match(selectors[:0], path)
	if len(hosts) == 0 || len(paths) == 0 {
		return &field{}, nil
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(match.ComparePaths(a, b), cmp.Compare(a, b)) })
	var buf [512]byte
	key := numbers(buf[:0], []int{int(in.Port), len(hosts), len(paths)})
	for _, h := range hosts {
		key = texts(key, h.text)
	}
	key = programKey(texts(key, paths...), in.Exe, in.Ancestors)
	return e.fields.get(key, func() (*field, error) { return e.askField(wait(), in, paths) })
}

// askField puts the first question of request.rego. paths are in order.
func (e *Engine) askField(wait *patience, in Input, paths []string) (*field, error) {
	var tiers [][]*ast.Term
	for i, p := range paths {
		if i == 0 || match.ComparePaths(paths[i-1], p) != 0 {
			tiers = append(tiers, nil)
		}
		tiers[len(tiers)-1] = append(tiers[len(tiers)-1], ast.StringTerm(p))
	}
	terms := make([]*ast.Term, len(tiers))
	for i, t := range tiers {
		terms[i] = ast.ArrayTerm(t...)
	}
	value, err := e.ask(wait, e.program.taking, e.input(in, ast.Item(keyPaths, ast.ArrayTerm(terms...))))
	if err != nil {
		return nil, err
	}
	pairs, ok := value.(ast.Set)
	if !ok {
		return nil, errUndefined
	}
	f := &field{}
	best := -1
	for _, pair := range pairs.Slice() { // in the order of their tiers
		tier, id, ok := e.placeAndID(pair)
		if !ok || e.inspected[id] == nil {
			return nil, errUndefined
		}
		if best < 0 {
			best = tier
		}
		if tier == best {
			f.selected = append(f.selected, id)
		}
		f.taking = append(f.taking, id)
	}
	slices.Sort(f.taking)
	f.taking = slices.Compact(f.taking)
	f.takingTerm, f.selectedTerm = e.idSet(f.taking), e.idSet(f.selected)
	return f, nil
}

// placeAndID reads [place, endpoint].
func (e *Engine) placeAndID(pair *ast.Term) (place, id int, ok bool) {
	a, isArray := pair.Value.(*ast.Array)
	if !isArray || a.Len() != 2 {
		return 0, 0, false
	}
	place, ok1 := intOf(a.Elem(0))
	id, ok2 := intOf(a.Elem(1))
	return place, id, ok1 && ok2 && id >= 0 && id < len(e.endpoints)
}

func intOf(t *ast.Term) (int, bool) {
	n, ok := t.Value.(ast.Number)
	if !ok {
		return 0, false
	}
	return n.Int()
}

func (e *Engine) idSet(ids []int) *ast.Term {
	set := ast.NewSet()
	for _, id := range ids {
		set.Add(e.inspected[id].term)
	}
	return settled(set)
}

// recovered turns a panic into an error, which is a denial.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("bug: rego: the decision panicked: %v", p)
	}
}

// reasonOf is the code of a decision that was not made.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errUndefined):
		return ReasonUndefined
	case errors.Is(err, errStopped):
		return ReasonTimeout
	}
	return ReasonError
}

func (e *Engine) newPatience(ctx context.Context) *patience {
	return &patience{ctx: ctx, until: time.Now().Add(e.limit)}
}
