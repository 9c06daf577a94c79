package rego

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// callerIndex finds the binary lists of a policy that name a program. Policies with the same list share it, and
// it is called after the first of them.
type callerIndex struct {
	lists map[string]*ast.Term   // the sorted patterns of a list → its name
	exact map[string][]*ast.Term // a path → the lists that hold it
	globs map[string][]*ast.Term // a pattern → the lists that hold it

	programs memory[*ast.Term] // programKey → set of lists
}

func newCallerIndex() *callerIndex {
	return &callerIndex{
		lists: map[string]*ast.Term{},
		exact: map[string][]*ast.Term{},
		globs: map[string][]*ast.Term{},
	}
}

// add returns the name of the binary list of a policy, nil for an empty one: nobody is on it.
func (x *callerIndex) add(p *policy.NetworkPolicy) *ast.Term {
	patterns := make([]string, 0, len(p.Binaries))
	for _, b := range p.Binaries {
		if b.Path != "" {
			patterns = append(patterns, b.Path)
		}
	}
	if len(patterns) == 0 {
		return nil
	}
	slices.Sort(patterns)
	patterns = slices.Compact(patterns)
	key := string(texts(nil, patterns...))
	if list, ok := x.lists[key]; ok {
		return list
	}
	list := ast.StringTerm(p.Key)
	x.lists[key] = list
	for _, pattern := range patterns {
		if strings.ContainsAny(pattern, "*?") {
			x.globs[pattern] = append(x.globs[pattern], list)
		} else {
			x.exact[pattern] = append(x.exact[pattern], list)
		}
	}
	return list
}

// of returns the set of binary lists that name exe or one of its ancestors. The set is shared: do not change it.
func (x *callerIndex) of(exe string, ancestors []string) *ast.Term {
	var buf [512]byte
	set, _ := x.programs.get(programKey(buf[:0], exe, ancestors), func() (*ast.Term, error) { return x.match(exe, ancestors), nil })
	return set
}

func (x *callerIndex) match(exe string, ancestors []string) *ast.Term {
	set := ast.NewSet()
	x.matchPath(set, exe)
	for _, path := range ancestors {
		x.matchPath(set, path)
	}
	return settled(set)
}

func (x *callerIndex) matchPath(set ast.Set, path string) {
	if path == "" {
		return // a program that could not be named is on no list
	}
	for _, list := range x.exact[path] {
		set.Add(list)
	}
	for pattern, lists := range x.globs {
		if !match.Binary(pattern, path) {
			continue
		}
		for _, list := range lists {
			set.Add(list)
		}
	}
}

// settled wraps a set that several goroutines will read. OPA sorts a set in place on its first ordered read,
// and its set operations read it without waiting for that: so it is sorted here, before it is shared.
func settled(set ast.Set) *ast.Term {
	set.Slice()
	return ast.NewTerm(set)
}

// programKey appends an unambiguous form of exe and ancestors to key.
func programKey(key []byte, exe string, ancestors []string) []byte {
	return texts(texts(key, exe), ancestors...)
}
