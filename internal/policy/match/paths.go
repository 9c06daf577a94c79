package match

import (
	"cmp"
	"strings"
)

// Paths finds which of many path patterns match a path, in time that depends on
// the path and on the patterns along it, not on their number. A pattern matches
// what Path says. The zero value is empty; it is filled once and then only read.
type Paths[T any] struct{ root node[T] }

// node is what is left of the patterns behind some of their elements.
type node[T any] struct {
	literal map[string]*node[T]
	globs   []globNode[T]
	deep    *node[T] // behind **
	loops   bool     // this node is behind **, so it takes any element and stays
	here    []T      // patterns that end
}

type globNode[T any] struct {
	pattern string
	next    *node[T]
}

// Add files v under a pattern.
func (x *Paths[T]) Add(pattern string, v T) {
	n := &x.root
	for element := range strings.SplitSeq(pattern, "/") {
		n = n.step(element)
	}
	n.here = append(n.here, v)
}

func (n *node[T]) step(element string) *node[T] {
	switch {
	case element == "**":
		if n.deep == nil {
			n.deep = &node[T]{loops: true}
		}
		return n.deep
	case !strings.ContainsAny(element, "*?"):
		if n.literal == nil {
			n.literal = map[string]*node[T]{}
		}
		if n.literal[element] == nil {
			n.literal[element] = &node[T]{}
		}
		return n.literal[element]
	}
	for _, g := range n.globs {
		if g.pattern == element {
			return g.next
		}
	}
	next := &node[T]{}
	n.globs = append(n.globs, globNode[T]{element, next})
	return next
}

// Match appends to found what is filed under the patterns that match path, each
// once and in no order.
func (x *Paths[T]) Match(found []T, path string) []T {
	var a, b [16]*node[T]
	now, next := reach(a[:0], &x.root), b[:0]
	for element := range strings.SplitSeq(path, "/") {
		next = next[:0]
		for _, n := range now {
			if n.loops {
				next = reach(next, n)
			}
			if l := n.literal[element]; l != nil {
				next = reach(next, l)
			}
			for _, g := range n.globs {
				if wild(g.pattern, element, 0) {
					next = reach(next, g.next)
				}
			}
		}
		now, next = next, now
	}
	for _, n := range now {
		found = append(found, n.here...)
	}
	return found
}

// reach adds a node and those behind a ** that stands for nothing.
func reach[T any](set []*node[T], n *node[T]) []*node[T] {
	for ; n != nil; n = n.deep {
		for _, o := range set {
			if o == n {
				return set
			}
		}
		set = append(set, n)
	}
	return set
}

// ComparePaths orders patterns by how specific they are, the most specific
// first: without a star before with one, then by the number of characters that
// are not stars, then by fewer **. 0 means that neither is more specific.
func ComparePaths(a, b string) int {
	wa, la, da := weight(a)
	wb, lb, db := weight(b)
	return cmp.Or(cmp.Compare(wa, wb), cmp.Compare(lb, la), cmp.Compare(da, db))
}

func weight(p string) (wild, literal, deep int) {
	if p == "" {
		p = "**"
	}
	if strings.ContainsAny(p, "*?") {
		wild = 1
	}
	stars := strings.Count(p, "*") + strings.Count(p, "?")
	return wild, len(p) - stars, strings.Count(p, "**")
}

// PathsOverlap says whether some path could match both patterns; an empty one
// matches every path. It may say yes for two patterns that exclude each other.
func PathsOverlap(a, b string) bool {
	if a == "" || b == "" || a == b {
		return true
	}
	p, q := strings.Split(a, "/"), strings.Split(b, "/")
	// row[j]: whether p[i:] and q[j:] overlap, for the i of the outer loop.
	row := make([]bool, len(q)+1)
	for i := len(p); i >= 0; i-- {
		below := row
		row = make([]bool, len(q)+1)
		for j := len(q); j >= 0; j-- {
			switch {
			case i == len(p) && j == len(q):
				row[j] = true
			case i < len(p) && p[i] == "**":
				row[j] = below[j] || j < len(q) && row[j+1]
			case j < len(q) && q[j] == "**":
				row[j] = row[j+1] || i < len(p) && below[j]
			case i < len(p) && j < len(q):
				row[j] = below[j+1] && elementsOverlap(p[i], q[j])
			}
		}
	}
	return row[0]
}

func elementsOverlap(a, b string) bool {
	wa, wb := strings.ContainsAny(a, "*?"), strings.ContainsAny(b, "*?")
	switch {
	case wa && wb:
		return true
	case wa:
		return wild(a, b, 0)
	case wb:
		return wild(b, a, 0)
	}
	return a == b
}
