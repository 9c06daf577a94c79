package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSize is the longest document that is read.
const MaxSize = 256 << 10

// maxDepth is deeper than any policy and bounds the reader's recursion.
const maxDepth = 24

// maxErrors ends the reading of a document that is wrong throughout.
const maxErrors = 50

// decoder walks one document and collects what is wrong with it.
type decoder struct {
	file  string
	lines []string
	errs  Errors
	warns []Warning
}

// fields maps the keys of a mapping to what reads their values. The walk finds
// unknown and duplicate keys.
type fields map[string]func(ast.Node)

func (d *decoder) fail(n ast.Node, format string, args ...any) {
	if len(d.errs) >= maxErrors {
		return
	}
	line, col := position(n)
	e := &PositionError{File: d.file, Line: line, Col: col, Msg: fmt.Sprintf(format, args...)}
	if line > 0 && line <= len(d.lines) {
		e.Excerpt = strings.TrimRight(d.lines[line-1], "\r")
	}
	d.errs = append(d.errs, e)
}

func (d *decoder) warn(n ast.Node, format string, args ...any) {
	line, col := position(n)
	d.warns = append(d.warns, Warning{d.file, line, col, fmt.Sprintf(format, args...)})
}

func position(n ast.Node) (line, col int) {
	if n == nil {
		return 0, 0
	}
	switch m := n.(type) {
	case *ast.MappingNode:
		if len(m.Values) > 0 && !m.IsFlowStyle {
			return position(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return position(m.Key)
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return 0, 0
	}
	return t.Position.Line, t.Position.Column
}

// document parses the bytes and returns the root mapping, or nil with errors.
func (d *decoder) document(src []byte) ast.Node {
	if len(src) > MaxSize {
		d.fail(nil, "the document is longer than %d KiB", MaxSize>>10)
		return nil
	}
	if i := strings.IndexFunc(string(src), func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' && r != '\r' }); i >= 0 {
		d.fail(nil, "the document holds a control character")
		return nil
	}
	if deepIndent(src) {
		d.fail(nil, "the document is nested too deeply")
		return nil
	}
	f, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return nil
	}
	var docs []*ast.DocumentNode
	for _, doc := range f.Docs {
		if doc.Body != nil {
			docs = append(docs, doc)
		}
	}
	switch len(docs) {
	case 0:
		d.fail(nil, "the document is empty; expected version: 1 and its sections")
		return nil
	case 1:
	default:
		d.fail(docs[1].Body, "a second document; expected one")
		return nil
	}
	d.forbid(docs[0].Body, 0)
	if d.errs != nil {
		return nil
	}
	return docs[0].Body
}

// deepIndent finds nesting that would cost the parser its stack: brackets and
// leading dashes or indentation beyond what any policy has.
func deepIndent(src []byte) bool {
	depth := 0
	for _, c := range src {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(depth-1, 0)
		}
		if depth > 4*maxDepth {
			return true
		}
	}
	for line := range strings.SplitSeq(string(src), "\n") {
		dashes := strings.Count(line[:len(line)-len(strings.TrimLeft(line, " -\t?:"))], "-")
		if dashes > 4*maxDepth || strings.Count(line, "? ") > 4*maxDepth {
			return true
		}
	}
	return false
}

// syntax reports an error of the YAML parser at its place.
func (d *decoder) syntax(err error) {
	type positioned interface{ GetToken() *token.Token }
	type messaged interface{ GetMessage() string }
	msg := err.Error()
	if m, is := err.(messaged); is {
		msg = m.GetMessage()
	}
	msg, _, _ = strings.Cut(msg, "\n")
	e := &PositionError{File: d.file, Msg: "not valid YAML: " + msg}
	if p, is := err.(positioned); is && p.GetToken() != nil && p.GetToken().Position != nil {
		pos := p.GetToken().Position
		e.Line, e.Col = pos.Line, pos.Column
		if e.Line > 0 && e.Line <= len(d.lines) {
			e.Excerpt = d.lines[e.Line-1]
		}
	}
	d.errs = append(d.errs, e)
}

// forbid refuses what makes a document mean something else than it shows.
func (d *decoder) forbid(n ast.Node, depth int) {
	if n == nil || len(d.errs) >= maxErrors {
		return
	}
	if depth > maxDepth {
		d.fail(n, "nested too deeply")
		return
	}
	switch m := n.(type) {
	case *ast.AnchorNode:
		d.fail(n, "anchors are not part of the policy language; write the value out")
	case *ast.AliasNode:
		d.fail(n, "aliases are not part of the policy language; write the value out")
	case *ast.TagNode:
		d.fail(n, "tags are not part of the policy language")
	case *ast.MergeKeyNode:
		d.fail(n, "merge keys are not part of the policy language")
	case *ast.DirectiveNode:
		d.fail(n, "directives are not part of the policy language")
	case *ast.MappingNode:
		for _, v := range m.Values {
			d.forbid(v, depth+1)
		}
	case *ast.MappingValueNode:
		d.forbid(m.Key, depth+1)
		d.forbid(m.Value, depth+1)
	case *ast.MappingKeyNode:
		d.fail(n, "complex keys are not part of the policy language")
	case *ast.SequenceNode:
		for _, v := range m.Values {
			d.forbid(v, depth+1)
		}
	}
}

// pairs are the entries of a mapping; ok is false, and told, for anything else.
func (d *decoder) pairs(n ast.Node, what string) (pairs []*ast.MappingValueNode, ok bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	d.fail(n, "%s: expected a mapping, found %s", what, describe(n))
	return nil, false
}

// mapping reads a mapping of known keys and returns which were there.
func (d *decoder) mapping(n ast.Node, what string, known fields) map[string]ast.Node {
	seen := map[string]ast.Node{}
	pairs, _ := d.pairs(n, what)
	for _, p := range pairs {
		key := keyOf(p)
		read, is := known[key]
		switch {
		case !is:
			d.fail(p.Key, "%s has no field %q%s", what, clip(key), suggest(key, known))
		case seen[key] != nil:
			line, _ := position(seen[key])
			d.fail(p.Key, "duplicate field %q, first given on line %d", key, line)
		default:
			seen[key] = p.Key
			if _, null := p.Value.(*ast.NullNode); null {
				d.fail(p.Key, "%s has no value; leave the field out or give it one", key)
				continue
			}
			read(p.Value)
		}
	}
	return seen
}

// named reads a mapping whose keys the author chooses.
func (d *decoder) named(n ast.Node, what string, read func(key string, k, v ast.Node)) {
	pairs, _ := d.pairs(n, what)
	seen := map[string]bool{}
	for _, p := range pairs {
		key := keyOf(p)
		switch {
		case seen[key]:
			d.fail(p.Key, "duplicate key %q", clip(key))
		case key == "" || len(key) > 128:
			d.fail(p.Key, "a key is 1 to 128 characters long")
		default:
			seen[key] = true
			read(key, p.Key, p.Value)
		}
	}
}

func keyOf(p *ast.MappingValueNode) string {
	if s, is := p.Key.(*ast.StringNode); is {
		return s.Value
	}
	return p.Key.String()
}

// suggest finds the known key that is nearest to a misspelt one.
func suggest(key string, known fields) string {
	best, distance := "", 3
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		if n := levenshtein(key, k); n < distance {
			best, distance = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known are " + strings.Join(names, ", ")
}

func levenshtein(a, b string) int {
	if len(a) > 64 {
		return math.MaxInt
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, last+1)
		}
	}
	return row[len(b)]
}

func describe(n ast.Node) string {
	switch m := n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	default:
		return strings.ToLower(m.Type().String())
	}
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
