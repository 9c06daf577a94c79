package rego

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// limit is how long a decision may take when the context does not ask for less. It takes about ten microseconds:
// what meets the limit is a bug, or a machine that stands still.
const limit = 2 * time.Second

// The names of the modules' input, as terms.
var (
	keyHosts     = ast.StringTerm("hosts")
	keyPort      = ast.StringTerm("port")
	keyCallers   = ast.StringTerm("callers")
	keyIndex     = ast.StringTerm("index")
	keyEndpoints = ast.StringTerm("endpoints")
	keyPaths     = ast.StringTerm("paths")
	keyTaking    = ast.StringTerm("taking")
	keySelected  = ast.StringTerm("selected")
	keyAudit     = ast.StringTerm("audit")
	keyParts     = ast.StringTerm("parts")
	keyAllow     = ast.StringTerm("allow")
	keyDeny      = ast.StringTerm("deny")
)

var (
	// errUndefined is what comes back when the module gave no answer of the expected kind.
	errUndefined = errors.New("bug: rego: the decision is undefined")
	// errStopped is in the error of a decision that took too long.
	errStopped = errors.New("rego: the decision was stopped")
)

// Decide tells whether the program of in may reach its host and port.
//
// The error is for the log: whenever it is not nil, the result is a denial all the same, with [ReasonUndefined],
// [ReasonTimeout] or [ReasonError]. It wraps the error of ctx when ctx ended the decision.
func (e *Engine) Decide(ctx context.Context, in Input) (res Result, err error) {
	defer func() {
		if err != nil {
			res = e.denied(in, reasonOf(err))
		}
	}()
	defer recovered(&err)
	admitting, reason, err := e.judge(e.newPatience(ctx), in)
	switch {
	case err != nil:
		return res, err
	case len(admitting) == 0:
		return e.denied(in, reason), nil
	}
	return e.allowed(in, admitting), nil
}

// judgment is the endpoints that admit a connection, in order, or the reason why there are none.
type judgment struct {
	admitting []endpoint
	reason    string
}

// judge returns the endpoints that admit the connection, in order, or the reason why there are none. What the
// module was asked before is remembered.
func (e *Engine) judge(wait *patience, in Input) (admitting []endpoint, reason string, err error) {
	var found [8]*hostPattern
	var buf [512]byte
	hosts := e.hosts.match(found[:0], in.Host)
	key := numbers(buf[:0], []int{int(in.Port), len(hosts)})
	for _, h := range hosts {
		key = texts(key, h.text)
	}
	j, err := e.judgments.get(programKey(key, in.Exe, in.Ancestors), func() (j judgment, err error) {
		j.admitting, j.reason, err = e.askAdmitted(wait, in)
		return j, err
	})
	return slices.Clone(j.admitting), j.reason, err
}

// askAdmitted puts the questions of egress.rego.
func (e *Engine) askAdmitted(wait *patience, in Input) (admitting []endpoint, reason string, err error) {
	input := e.input(in)
	value, err := e.ask(wait, e.program.admitted, input)
	if err != nil {
		return nil, "", err
	}
	ids, ok := value.(ast.Set)
	if !ok {
		return nil, "", errUndefined
	}
	if ids.Len() > 0 {
		admitting, err = e.lookUp(ids)
		return admitting, "", err
	}
	if value, err = e.ask(wait, e.program.reason, input); err != nil {
		return nil, "", err
	}
	code, ok := value.(ast.String)
	if !ok {
		return nil, "", errUndefined
	}
	return nil, string(code), nil
}

// ask puts a question to the module.
func (e *Engine) ask(wait *patience, question ast.Body, input *ast.Term) (ast.Value, error) {
	if wait.check(); wait.err != nil {
		return nil, fmt.Errorf("%w: %w", errStopped, wait.err)
	}
	var value ast.Value
	err := topdown.NewQuery(question).
		WithCompiler(e.program.compiler).
		WithInput(input).
		WithCancel(wait).
		WithStrictBuiltinErrors(true).
		WithVirtualCache(forgetful{}).
		WithMetrics(metrics.NoOp()).
		Iter(wait.ctx, func(found topdown.QueryResult) error {
			if term := found[answer]; term != nil {
				value = term.Value
			}
			return nil
		})
	switch {
	case wait.err != nil:
		return nil, fmt.Errorf("%w: %w", errStopped, wait.err)
	case err != nil:
		return nil, fmt.Errorf("rego: %w", err)
	}
	return value, nil
}

// input makes the input document of egress.rego, with what another module asks for.
func (e *Engine) input(in Input, more ...[2]*ast.Term) *ast.Term {
	var found [8]*hostPattern
	var terms [8]*ast.Term
	hosts := terms[:0]
	for _, p := range e.hosts.match(found[:0], in.Host) {
		hosts = append(hosts, p.term)
	}
	port := e.ports[in.Port]
	if port == nil {
		port = ast.InternedTerm(int(in.Port))
	}
	return ast.ObjectTerm(append(more,
		ast.Item(keyHosts, ast.ArrayTerm(hosts...)),
		ast.Item(keyPort, port),
		ast.Item(keyCallers, e.callers.of(in.Exe, in.Ancestors)),
		ast.Item(keyIndex, e.index),
	)...)
}

// lookUp returns the endpoints with these ids, the smallest id first.
func (e *Engine) lookUp(ids ast.Set) ([]endpoint, error) {
	endpoints := make([]endpoint, 0, ids.Len())
	for _, id := range ids.Slice() {
		n, ok := id.Value.(ast.Number)
		i, isInt := n.Int()
		if !ok || !isInt || i < 0 || i >= len(e.endpoints) {
			return nil, errUndefined
		}
		endpoints = append(endpoints, e.endpoints[i])
	}
	return endpoints, nil
}

// forgetful is a cache of rules that keeps nothing. While no rule is asked for twice in a decision, remembering
// what they gave costs a seventh of its time and a third of its allocations, for nothing.
type forgetful struct{}

func (forgetful) Push()                         {}
func (forgetful) Pop()                          {}
func (forgetful) Get(ast.Ref) (*ast.Term, bool) { return nil, false }
func (forgetful) Put(ast.Ref, *ast.Term)        {}
func (forgetful) Keys() []ast.Ref               { return nil }

// patience ends a decision at a deadline or when its context ends. OPA asks at every step, on the goroutine that
// decides. Looking at the clock now and then costs less than a timer for each decision.
type patience struct {
	ctx   context.Context
	until time.Time
	steps uint
	err   error
}

// Cancelled implements topdown.Cancel.
func (p *patience) Cancelled() bool {
	if p.steps++; p.steps%64 == 0 {
		p.check()
	}
	return p.err != nil
}

// Cancel implements topdown.Cancel. Nobody calls it.
func (p *patience) Cancel() { p.err = context.Canceled }

func (p *patience) check() {
	if p.err == nil {
		p.err = p.ctx.Err()
	}
	if p.err == nil && !time.Now().Before(p.until) {
		p.err = context.DeadlineExceeded
	}
}
