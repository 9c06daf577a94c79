package policy

import (
	"cmp"
	"slices"

	"sallyport/internal/policy/match"
)

// hears says whether a WebSocket of h is read no closer than one of g. What no
// rule could be about is not let pass by audit: a binary message passes with access
// full only, and where rules are about operations, no text that cannot be read as some.
func (h grant) hears(g grant) bool {
	if g.m == nil && g.e.Access == "full" && h.e.Access != "full" {
		return false
	}
	texts := g.m == nil || methodCovers(g.m.Method, MethodText, false)
	return !texts || !h.e.ReadsOperations() || g.e.ReadsOperations()
}

// before says whether an endpoint stands before another in the order of a policy:
// by key, and then as written. Of those that decide about a WebSocket together, the
// first says how closely it is read.
func (g grant) before(o grant) bool {
	return cmp.Or(cmp.Compare(g.key, o.key), cmp.Compare(g.at, o.at)) < 0
}

// heardCloser says whether what h lets a WebSocket do is less than g, because an
// endpoint of its policy stands before it. One that stands before g, too, is
// compared as a limit.
func heardCloser(p *Policy, h, g grant) (closer bool) {
	each(p, func(o grant) {
		closer = closer || o.e.Protocol == WebSocket && g.e.Protocol == WebSocket && o.before(h) && !o.hears(g) && o.meets(g) &&
			match.ComparePaths(o.e.Path, h.e.Path) == 0 && (g.e.Path != h.e.Path || !o.before(g))
	})
	return closer
}

// hearsLater says whether m comes too late, or is too lax, to have a WebSocket read
// as l does: among asked there is a grant behind l that l is closer than.
func (m limit) hearsLater(l limit, asked []grant) bool {
	return l.takes && l.e.Protocol == WebSocket && (l.before(m.grant) || !l.hears(m.grant)) &&
		slices.ContainsFunc(asked, func(g grant) bool {
			return g.e.Protocol == WebSocket && l.before(g) && !l.hears(g) && l.meets(g) && match.ComparePaths(g.e.Path, l.e.Path) == 0
		})
}
