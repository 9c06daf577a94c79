package rego

import (
	"context"
	"net/netip"
	"slices"

	"sallyport/internal/policy"
)

// Keeps tells whether a connection of in, which old allowed, may live on under e: everything that could flow on it
// by the old rules may flow by the new ones. It says no when that cannot be told.
func (e *Engine) Keeps(ctx context.Context, old *Engine, in Input) (keeps bool) {
	defer func() {
		if recover() != nil {
			keeps = false
		}
	}()
	now, _, err := e.judge(e.newPatience(ctx), in)
	if err != nil || len(now) == 0 {
		return false
	}
	was, _, err := old.judge(old.newPatience(ctx), in)
	if err != nil || len(was) == 0 {
		return false
	}
	for _, p := range prefixesOf(was) {
		if !slices.Contains(prefixesOf(now), p) {
			return false // it may lead to an address that is refused now
		}
	}
	was, now = slices.DeleteFunc(was, opaque), slices.DeleteFunc(now, opaque)
	if len(was) == 0 || len(now) == 0 {
		return len(was) == len(now) // both are not read, or it was not and has to be
	}
	for _, w := range was {
		if !slices.ContainsFunc(now, func(n endpoint) bool { return widens(w.get(), n.get()) }) {
			return false
		}
	}
	for _, n := range now {
		known := slices.ContainsFunc(was, func(w endpoint) bool { return widens(w.get(), n.get()) })
		beside := slices.ContainsFunc(was, func(w endpoint) bool { return w.get().Path == n.get().Path })
		if !known && (!beside || len(n.get().DenyRules) > 0) {
			return false // it may take paths over, or forbid what was allowed
		}
	}
	return true
}

func opaque(p endpoint) bool { return !p.reads() }

func prefixesOf(admitting []endpoint) (out []netip.Prefix) {
	for _, p := range admitting {
		out = append(out, p.get().AllowedIPs...)
	}
	return out
}

// widens tells whether b, in the place of a, allows all that a allows.
func widens(a, b *policy.Endpoint) bool {
	reading := a.L7
	reading.MCPAllKnownMethods = b.L7.MCPAllKnownMethods
	full := b.Access == "full" && accesses[b.Protocol]["full"] != nil
	switch {
	case a.Path != b.Path, a.Protocol != b.Protocol, !policy.Same(reading, b.L7),
		a.Audit && !b.Audit,
		a.L7.MCPAllKnownMethods && !b.L7.MCPAllKnownMethods,
		a.Access != b.Access && a.Access != "" && !full:
		return false
	}
	for _, r := range a.Rules {
		if !full && !slices.ContainsFunc(b.Rules, func(o policy.Rule) bool { return policy.Same(r.Allow, o.Allow) }) {
			return false
		}
	}
	for _, d := range b.DenyRules {
		if !slices.ContainsFunc(a.DenyRules, func(o policy.Match) bool { return policy.Same(d, o) }) {
			return false
		}
	}
	return true
}
