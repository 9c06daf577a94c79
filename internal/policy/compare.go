package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sallyport/internal/policy/match"
)

// Difference is one thing that a policy makes possible or impossible compared
// with another.
type Difference struct {
	Wider bool   `json:"wider"` // it is possible only under the second policy
	What  string `json:"what"`
	In    string `json:"in,omitempty"`     // a or b: the policy that says so
	Key   string `json:"policy,omitempty"` // there, in network_policies
	Line  int    `json:"line,omitempty"`   // there
}

// Compare lists what b makes possible that a does not, and what it makes
// impossible. It errs on the side of naming: where it cannot tell that one
// pattern takes in another, it says that they differ. So a change of which it
// names nothing wider allows no more.
func Compare(a, b *Policy) []Difference {
	out := append(compareSections(a, b), wider(a, b, true, "a", "b")...)
	return append(out, wider(b, a, false, "b", "a")...)
}

// wider lists what b allows and a does not. forward says that b is the second of
// the policies that are compared, inA and inB are what they are called.
func wider(a, b *Policy, forward bool, inA, inB string) (out []Difference) {
	given, asked := grantsOf(a), grantsOf(b)
	for _, g := range asked {
		if !slices.ContainsFunc(given, func(h grant) bool { return h.covers(g) && effective(a, h, g) && !heardCloser(a, h, g) }) {
			out = append(out, Difference{forward, g.String(), inB, g.key, g.line})
		}
	}
	limits := limitsOf(b)
	for _, l := range limitsOf(a) {
		// Where nothing is allowed, a limit that is gone allows nothing.
		if slices.ContainsFunc(asked, l.meets) && !slices.ContainsFunc(limits, func(m limit) bool { return m.covers(l) && !m.hearsLater(l, asked) }) {
			what := map[bool]string{true: "no more limit: ", false: "limit: "}[forward]
			out = append(out, Difference{forward, what + l.String(), inA, l.key, l.line})
		}
	}
	return out
}

// grant lets a program do something at a host and a port.
type grant struct {
	key, binary string
	at          int // place of e in its network policy
	e           *Endpoint
	port        uint16
	m           *Match // nil: everything that the endpoint could be asked
	transport   bool   // not m: the stream of an MCP session and its end, which need no rule
	line        int
}

// limit is what an endpoint forbids: by a deny rule, or because it takes over
// the paths of another.
type limit struct {
	grant
	takes bool
}

// grantsOf lists what a policy allows, each by itself.
func grantsOf(p *Policy) (out []grant) {
	each(p, func(g grant) {
		e := g.e
		if !e.Inspected() || e.Audit || e.Access == "full" {
			out = append(out, g)
			return
		}
		for _, m := range accessMatches(e) {
			g := g
			g.m = &m
			out = append(out, g)
		}
		for i := range e.Rules {
			g := g
			g.m, g.line = &e.Rules[i].Allow, e.Rules[i].Line
			out = append(out, g)
		}
		if e.Protocol == MCP {
			g.transport = true
			out = append(out, g)
		}
	})
	return out
}

// limitsOf lists what a policy forbids where it would allow it.
func limitsOf(p *Policy) (out []limit) {
	each(p, func(g grant) {
		if !g.e.Inspected() {
			return
		}
		out = append(out, limit{g, true})
		for i := range g.e.DenyRules {
			g := g
			g.m, g.line = &g.e.DenyRules[i], g.e.DenyRules[i].Line
			out = append(out, limit{g, false})
		}
	})
	return out
}

// each calls f for each program, endpoint and port.
func each(p *Policy, f func(grant)) {
	for i := range p.Network {
		np := &p.Network[i]
		for j := range np.Endpoints {
			e := &np.Endpoints[j]
			for _, b := range np.Binaries {
				for _, port := range e.Ports {
					f(grant{key: np.Key, binary: b.Path, at: j, e: e, port: port, line: e.Line})
				}
			}
		}
	}
}

// accessMatches are what access and allow_all_known_mcp_methods stand for.
func accessMatches(e *Endpoint) (out []Match) {
	words := map[Protocol]map[string][]string{
		REST:      {"read-only": {"GET", "OPTIONS"}, "read-write": {"GET", "OPTIONS", "POST", "PUT", "PATCH"}},
		WebSocket: {"read-only": {"GET"}, "read-write": {"GET", MethodText}},
	}[e.Protocol][e.Access]
	for _, w := range words {
		out = append(out, Match{Method: w})
	}
	if e.Protocol == GraphQL && e.Access != "" {
		out = append(out, Match{OperationType: "query"})
		if e.Access == "read-write" {
			out = append(out, Match{OperationType: "mutation"})
		}
	}
	if e.L7.MCPAllKnownMethods {
		for _, m := range MCPMethods {
			out = append(out, Match{Method: m})
		}
	}
	return out
}

// within says whether h is about all that g is about: program, host, port, path.
func (g grant) within(h grant) bool {
	return g.port == h.port && match.PathCovers(h.binary, g.binary) && hostCovers(h.e, g.e) &&
		(h.e.Path == "" || h.e.Path == g.e.Path || g.e.Path != "" && match.PathCovers(h.e.Path, g.e.Path))
}

// hostCovers compares where endpoints lead.
func hostCovers(h, g *Endpoint) bool {
	inside := func(p netip.Prefix) bool {
		return slices.ContainsFunc(h.AllowedIPs, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) })
	}
	if slices.ContainsFunc(g.AllowedIPs, func(p netip.Prefix) bool { return !inside(p) }) {
		return false
	}
	return h.Host == g.Host || h.Host != "" && g.Host != "" && match.HostCovers(h.Host, g.Host)
}

// covers says whether what g allows is allowed by h as well.
func (h grant) covers(g grant) bool {
	switch {
	case !g.within(h), g.e.RelayDirect && !h.e.RelayDirect, g.e.PinRefresh && !h.e.PinRefresh, g.e.TLSSkip && !h.e.TLSSkip:
		return false
	case !h.e.Inspected():
		return g.e.Protocol == h.e.Protocol || h.e.Protocol == Raw && g.e.Protocol != TCP
	case g.e.Protocol != h.e.Protocol, !sameReading(g.e.L7, h.e.L7):
		return false
	case g.transport: // which an endpoint has beside its rules
		return h.m == nil && !h.transport || h.e.carries(g.e)
	case h.transport:
		return false
	case g.e.Protocol == WebSocket && !h.hears(g):
		return false
	case h.m == nil:
		return true
	}
	return g.m != nil && matchCovers(h.m, g.m, g.e.rpc())
}

// carries says whether h takes the queries that g takes of a request of MCP without
// a call.
func (h *Endpoint) carries(g *Endpoint) bool {
	if !h.ClosesQuery() {
		return true
	}
	return g.ClosesQuery() && !slices.ContainsFunc(g.Rules, func(r Rule) bool {
		return len(r.Allow.Query) > 0 && !slices.ContainsFunc(h.Rules, func(o Rule) bool {
			return slices.Equal(sortedKeys(o.Allow.Query), sortedKeys(r.Allow.Query)) && mapsCover(o.Allow.Query, r.Allow.Query)
		})
	})
}

// covers says whether what l forbids is forbidden by m as well.
func (m limit) covers(l limit) bool {
	if m.takes != l.takes || !l.within(m.grant) || m.e.Audit && !l.e.Audit {
		return false
	}
	if m.takes {
		return m.e.Path == l.e.Path && m.e.Protocol == l.e.Protocol && sameReading(m.e.L7, l.e.L7)
	}
	return m.e.Path == l.e.Path && m.e.Protocol == l.e.Protocol && matchCovers(m.m, l.m, l.e.rpc())
}

// effective says whether a grant of a policy holds for all of g, whatever else is
// in the policy: an inspected endpoint decides in the place of one that is not
// read, for every path of its host, and one with a more specific path in the
// place of another where the two meet. Where both
// policies have the same grant, these are compared as limits.
func effective(p *Policy, h, g grant) bool {
	if h.e.Path == g.e.Path && h.e.Protocol == g.e.Protocol {
		return true
	}
	ok := true
	each(p, func(o grant) {
		if o.e.Inspected() && o.meetsHost(g) && (!h.e.Inspected() || match.ComparePaths(o.e.Path, h.e.Path) < 0 && o.meets(g)) {
			ok = false
		}
	})
	return ok
}

// meets says whether two grants could be about the same request.
func (g grant) meets(o grant) bool { return g.meetsHost(o) && match.PathsOverlap(o.e.Path, g.e.Path) }

// meetsHost says whether two grants could be about the same connection.
func (g grant) meetsHost(o grant) bool {
	return o.port == g.port && (o.e.Host == "" || g.e.Host == "" || match.HostsOverlap(o.e.Host, g.e.Host))
}

// matchCovers says whether every request that g matches is matched by h.
func matchCovers(h, g *Match, rpc bool) bool {
	if Same(*h, *g) {
		return true
	}
	switch {
	case !methodCovers(h.Method, g.Method, rpc),
		h.Path != "" && (g.Path == "" || !match.PathCovers(h.Path, g.Path)),
		h.OperationType != "" && h.OperationType != "*" && h.OperationType != g.OperationType,
		h.OperationName != "" && h.OperationName != g.OperationName,
		h.QueryExact && !(g.QueryExact && slices.Equal(sortedKeys(h.Query), sortedKeys(g.Query))),
		len(h.Tool) > 0 && (len(g.Tool) == 0 || !globsCover(h.Tool, g.Tool)),
		len(h.Fields) > 0 && (len(g.Fields) == 0 || !globsCover(h.Fields, g.Fields)):
		return false
	}
	// A match that is about operations is not about what has none.
	if h.AboutOperations() && !g.AboutOperations() {
		return false
	}
	return mapsCover(h.Query, g.Query) && mapsCover(h.Params, g.Params)
}

func methodCovers(h, g string, rpc bool) bool {
	switch {
	case h == "", h == "*", h == g:
		return true
	case rpc:
		return false
	}
	return strings.EqualFold(h, g) || strings.EqualFold(h, "GET") && strings.EqualFold(g, "HEAD")
}

func (e *Endpoint) rpc() bool { return e.Protocol == JSONRPC || e.Protocol == MCP }

func mapsCover(h, g map[string][]string) bool {
	for key, globs := range h {
		if len(g[key]) == 0 || !globsCover(globs, g[key]) {
			return false
		}
	}
	return true
}

// globsCover says whether each of g is taken in by one of h.
func globsCover(h, g []string) bool {
	return !slices.ContainsFunc(g, func(s string) bool {
		return !slices.ContainsFunc(h, func(p string) bool { return match.GlobCovers(p, s) })
	})
}

// String says what a grant allows.
func (g grant) String() string {
	return fmt.Sprintf("%s at %s: %s", g.binary, g.place(), g.asked())
}

func (g grant) place() string {
	host := g.e.Host
	if host == "" {
		host = "addresses"
	}
	s := fmt.Sprintf("%s:%d%s", host, g.port, g.e.Path)
	if len(g.e.AllowedIPs) > 0 {
		ips := make([]string, len(g.e.AllowedIPs))
		for i, p := range g.e.AllowedIPs {
			ips[i] = p.String()
		}
		s += " (" + strings.Join(ips, ", ") + ")"
	}
	return s
}

func (g grant) asked() string {
	kind := string(g.e.Protocol)
	switch {
	case g.e.Protocol == Raw:
		return "everything, unread"
	case g.e.Protocol == TCP:
		return "everything, unread, by tcp"
	case g.transport:
		return kind + " sessions: GET to listen, DELETE to end"
	case g.m == nil:
		s := "everything by " + kind
		if g.e.Audit {
			s += ", audited"
		}
		if g.e.Protocol == WebSocket && g.e.Access == "full" {
			s += ", binary messages too"
		}
		return s
	}
	return kind + " " + g.m.summary()
}

func (l limit) String() string {
	if l.takes {
		how := "read as " + string(l.e.Protocol)
		if l.e.Audit {
			how += ", in audit"
		}
		return fmt.Sprintf("%s at %s: %s", l.binary, l.place(), how)
	}
	return fmt.Sprintf("%s at %s: denied %s %s", l.binary, l.place(), l.e.Protocol, l.m.summary())
}

// summary is a match in the words of the language.
func (m *Match) summary() string {
	s := m.Render()
	for _, k := range sortedKeys(m.Params) {
		s = strings.TrimSuffix(s, "}") + fmt.Sprintf(", params: {%s: %s}}", k, quoteAll(m.Params[k]))
	}
	return strings.Replace(s, "{, ", "{", 1)
}

func sortedKeys(m map[string][]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
