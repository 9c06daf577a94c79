package rego

import (
	"context"
	"net/netip"
	"slices"

	"sallyport/internal/policy"
)

// Kept is what may become of a connection when another policy takes the place of the one that allowed it.
type Kept uint8

const (
	Ends    Kept = iota // it is not allowed any more, or that cannot be told
	Rejudge             // it is read as before: each request that runs on it is to be judged again
	Lives               // everything that could flow on it by the old rules may flow by the new ones
)

// Keeps tells what may become of a connection of in that old allowed.
func (e *Engine) Keeps(ctx context.Context, old *Engine, in Input) (kept Kept) {
	defer func() {
		if recover() != nil {
			kept = Ends
		}
	}()
	now, _, err := e.judge(e.newPatience(ctx), in)
	if err != nil || len(now) == 0 {
		return Ends
	}
	was, _, err := old.judge(old.newPatience(ctx), in)
	if err != nil || len(was) == 0 {
		return Ends
	}
	for _, p := range prefixesOf(was) {
		if !slices.Contains(prefixesOf(now), p) {
			return Ends // it may lead to an address that is refused now
		}
	}
	was, now = slices.DeleteFunc(was, opaque), slices.DeleteFunc(now, opaque)
	switch {
	case len(was) == 0 && len(now) == 0:
		return Lives
	case len(was) == 0 || len(now) == 0, !sameReaders(was, now) || !sameReaders(now, was):
		return Ends
	case !allWidened(was, now):
		return Rejudge
	}
	return Lives
}

// sameReaders says whether each endpoint of a has one in b that takes in the same paths and reads them alike.
func sameReaders(a, b []endpoint) bool {
	return !slices.ContainsFunc(a, func(x endpoint) bool {
		return !slices.ContainsFunc(b, func(y endpoint) bool {
			reading := x.get().L7
			reading.MCPAllKnownMethods = y.get().L7.MCPAllKnownMethods
			return x.get().Path == y.get().Path && x.get().Protocol == y.get().Protocol && policy.Same(reading, y.get().L7)
		})
	})
}

// allWidened says whether endpoints now, in the place of was, allow all that was allowed.
func allWidened(was, now []endpoint) bool {
	for _, w := range was {
		if !slices.ContainsFunc(now, func(n endpoint) bool { return widens(w.get(), n.get()) }) {
			return false
		}
	}
	for _, n := range now {
		known := slices.ContainsFunc(was, func(w endpoint) bool { return widens(w.get(), n.get()) })
		if !known && len(n.get().DenyRules) > 0 {
			return false // it may forbid what was allowed
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
	full := b.Access == "full" && accesses[b.Protocol]["full"] != nil
	switch {
	case a.Path != b.Path, a.Protocol != b.Protocol,
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
