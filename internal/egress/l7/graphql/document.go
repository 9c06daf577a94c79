package graphql

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"

	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

// document reads the operation of a text that has this name, or the only one if name is empty.
func document(text, name string, o Options) (policy.Operation, error) {
	doc, err := parse(text, o)
	if err != nil {
		return policy.Operation{}, err
	}
	fragments := map[string]*ast.FragmentDefinition{}
	for _, f := range doc.Fragments {
		if fragments[f.Name] != nil {
			return policy.Operation{}, jsonval.Malformedf("two fragments are named %.80q", f.Name)
		}
		if fragments[f.Name] = f; depth(f.SelectionSet, o.Depth) > o.Depth {
			return policy.Operation{}, tooDeep(o)
		}
	}
	op, err := choose(doc.Operations, name)
	if err != nil {
		return policy.Operation{}, err
	}
	for _, any := range doc.Operations {
		if depth(any.SelectionSet, o.Depth) > o.Depth {
			return policy.Operation{}, tooDeep(o)
		}
	}
	roots := roots{fragments: fragments, seen: map[string]bool{}, fields: map[string]bool{}}
	if err := roots.add(op.SelectionSet); err != nil {
		return policy.Operation{}, err
	}
	if len(roots.names) == 0 {
		return policy.Operation{}, jsonval.Malformedf("the GraphQL operation selects no field")
	}
	return policy.Operation{Type: string(op.Operation), Name: op.Name, Fields: roots.names}, nil
}

func tooDeep(o Options) error {
	return &jsonval.TooLarge{What: "levels of selections", Limit: int64(o.Depth)}
}

// parse reads a text with the parser of gqlparser, which bounds tokens and recursion.
func parse(text string, o Options) (doc *ast.QueryDocument, err error) {
	defer func() {
		if p := recover(); p != nil {
			doc, err = nil, jsonval.Malformedf("not GraphQL: the parser gave up: %.80s", fmt.Sprint(p))
		}
	}()
	if !utf8.ValidString(text) {
		return nil, jsonval.Malformedf("not GraphQL: invalid UTF-8")
	}
	doc, err = parser.ParseQueryWithTokenLimit(&ast.Source{Name: "query", Input: text}, o.Tokens)
	if err == nil {
		return doc, nil
	}
	said := err.Error()
	if own, ok := errors.AsType[*gqlerror.Error](err); ok {
		said = own.Message
	}
	// The parser has no errors of a type for its bounds. Other messages of it quote the
	// client's text, which cannot be the whole of one: so the whole is compared.
	switch said {
	case fmt.Sprintf("exceeded token limit of %d", o.Tokens):
		return nil, &jsonval.TooLarge{What: "tokens of GraphQL", Limit: int64(o.Tokens)}
	case fmt.Sprintf("exceeded maximum nesting depth of %d", parser.MaxNestingDepth):
		return nil, &jsonval.TooLarge{What: "levels of GraphQL", Limit: parser.MaxNestingDepth}
	}
	return nil, jsonval.Malformedf("not GraphQL: %.200s", err.Error())
}

// choose is GetOperation of section 6.1 of the specification, behind the rules of section 5.2: names are
// unique, and an operation without a name is alone.
func choose(ops ast.OperationList, name string) (*ast.OperationDefinition, error) {
	names := map[string]bool{}
	var chosen *ast.OperationDefinition
	for _, op := range ops {
		if op.Name == "" && len(ops) > 1 {
			return nil, jsonval.Malformedf("an operation without a name stands beside another one")
		}
		if names[op.Name] {
			return nil, jsonval.Malformedf("two operations are named %.80q", op.Name)
		}
		names[op.Name] = true
		if op.Name == name || name == "" {
			chosen = op
		}
	}
	switch {
	case len(ops) == 0:
		return nil, jsonval.Malformedf("the GraphQL document has no operation")
	case name == "" && len(ops) > 1:
		return nil, jsonval.Malformedf("the document has %d operations, and operationName says none", len(ops))
	case chosen == nil:
		return nil, jsonval.Malformedf("the document has no operation named %.80q", name)
	}
	return chosen, nil
}

// depth counts the levels of a selection, up to one more than limit.
func depth(set ast.SelectionSet, limit int) int {
	if len(set) == 0 || limit < 0 {
		return 0
	}
	deepest := 0
	for _, s := range set {
		switch s := s.(type) {
		case *ast.Field:
			deepest = max(deepest, depth(s.SelectionSet, limit-1))
		case *ast.InlineFragment:
			deepest = max(deepest, depth(s.SelectionSet, limit-1))
		}
	}
	return deepest + 1
}

// roots collects the fields that a selection has at its root.
type roots struct {
	fragments map[string]*ast.FragmentDefinition
	seen      map[string]bool // fragments
	fields    map[string]bool
	names     []string // of fields, in the order of the text
}

func (r *roots) add(set ast.SelectionSet) error {
	for _, s := range set {
		switch s := s.(type) {
		case *ast.Field:
			if !r.fields[s.Name] {
				r.fields[s.Name] = true
				r.names = append(r.names, s.Name)
			}
		case *ast.InlineFragment:
			if err := r.add(s.SelectionSet); err != nil {
				return err
			}
		case *ast.FragmentSpread:
			f := r.fragments[s.Name]
			if f == nil {
				return jsonval.Malformedf("the document has no fragment named %.80q", s.Name)
			}
			if r.seen[s.Name] {
				continue
			}
			r.seen[s.Name] = true
			if err := r.add(f.SelectionSet); err != nil {
				return err
			}
		default:
			return jsonval.Malformedf("bug: a selection of the type %T", s)
		}
	}
	return nil
}
