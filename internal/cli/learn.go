package cli

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"sallyport/internal/egress/l7/http"
	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
	"sallyport/internal/policy/rego"
)

// Bounds of what one session can make the learner hold.
const (
	maxLearned  = 1024  // connections of a program to a host and port, requests of one of these, and remarks
	maxRequests = 16384 // requests in all
)

// learner writes down what a session used, and what it was denied. It never lets
// anything through: it only listens.
type learner struct {
	file   *os.File
	policy *policy.Policy // that the session started with

	mu      sync.Mutex
	used    map[flow]*evidence
	denied  map[flow]*evidence
	held    int             // requests in both
	remarks map[string]bool // what could not be written as a rule, a sentence each
}

// flow is a program and where it went.
type flow struct {
	host string
	port uint16
	exe  string
}

// evidence is what was seen of a flow.
type evidence struct {
	whole  bool                                // a connection that was not read
	native bool                                // by protocol: tcp
	read   map[reading]map[string]policy.Match // requests, by how they were read and by their text
	held   int                                 // requests, and readings without one
	addrs  []netip.Prefix                      // that only allowed_ips opens
}

// reading is how requests were read: what an endpoint has to have for them to be
// read so again.
type reading struct {
	protocol  policy.Protocol
	path      string // that selects the endpoint
	maxBody   int64  // bytes; 0: the default
	looseTool bool
}

// note adds the matches of a request, and returns how much more is held.
func (v *evidence) note(how reading, matches []policy.Match) int {
	before := v.held
	if v.read[how] == nil {
		v.read[how] = map[string]policy.Match{}
		v.held++
	}
	for _, m := range matches {
		key := m.Render()
		if _, seen := v.read[how][key]; !seen {
			v.read[how][key] = m
			v.held++
		}
	}
	return v.held - before
}

// readingOf is how a request to path is read at an endpoint. What has operations is
// learned for the very path: where it is no rule that says which paths there are.
func readingOf(ep *policy.Endpoint, path string) reading {
	switch {
	case ep == nil || !ep.Inspected():
		return reading{protocol: policy.REST}
	case ep.Protocol == policy.REST:
		return reading{protocol: policy.REST, path: ep.Path}
	}
	l := ep.L7
	return reading{ep.Protocol, path, max(l.GraphQLMaxBody, l.JSONRPCMaxBody, l.MCPMaxBody), l.MCPLooseToolNames}
}

// matchOf is the narrowest match of a request in an event; ok is false if none means
// that request and no other. Values of a query are not in events: it takes each.
func matchOf(r *event.HTTPRequest) (_ policy.Match, ok bool) {
	to, err := http.Parse(r.URL.Path)
	if err != nil || strings.ContainsAny(to.Path, "*?") || to.Path != r.URL.Path {
		return policy.Match{}, false
	}
	query, err := http.Parse("/?" + r.URL.QueryString)
	if err != nil {
		return policy.Match{}, false // it was too long for an event
	}
	for key := range query.Query {
		query.Query[key] = []string{"*"}
	}
	// Without "=", a part of a query is redacted as a whole.
	m, ok := policy.Match{Method: r.HTTPMethod, Path: to.Path}.OfQuery(query.Query)
	return m, ok && query.Query[event.Redacted] == nil
}

// matchesOf are the narrowest matches of a request that was read as protocol: one for
// each operation, none for a request of MCP without one, which needs no rule.
func matchesOf(e event.Event, protocol policy.Protocol) (_ []policy.Match, ok bool) {
	m, ok := matchOf(e.HTTPRequest)
	told, all := e.Operations()
	switch {
	case !ok:
		return nil, false
	case protocol == policy.REST:
		// Else it was read by another policy than that of the start.
		return []policy.Match{m}, len(told) == 0 && all && m.Method != policy.MethodText
	case len(told) == 0 && protocol == policy.WebSocket:
		return []policy.Match{m}, all
	case len(told) == 0:
		return nil, all && protocol == policy.MCP && len(m.Query) == 0
	case protocol == policy.WebSocket:
		m = policy.Match{} // of a message: what opened the websocket has a rule of its own
	}
	var out []policy.Match
	for _, o := range told {
		one, ok := m, false
		if protocol == policy.GraphQL || protocol == policy.WebSocket {
			one, ok = m.OfOperation(o.Type, o.Name, o.Fields)
		} else {
			one, ok = m.OfCall(o.Method, o.Tool)
		}
		if !ok || o.Persisted != "" {
			return nil, false
		}
		out = append(out, one)
	}
	return out, all
}

// newLearner makes the file before anything of the agent exists. It must not be
// there: what is overwritten, and where a link leads, would be the agent's choice.
func newLearner(name string, p *policy.Policy) (*learner, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--learn: %w; it has to be a new file", plainPathError(err))
	}
	if p == nil {
		p = policy.Default()
	}
	return &learner{file: f, policy: p, used: map[flow]*evidence{}, denied: map[flow]*evidence{}, remarks: map[string]bool{}}, nil
}

// learnable are the denials that a rule about the request or its host answers.
var learnable = []string{rego.ReasonHost, rego.ReasonPort, rego.ReasonBinary, rego.ReasonPath, rego.ReasonRequest}

// event notes what an event says about the use of the network.
func (l *learner) event(e event.Event) {
	to := e.DstEndpoint
	if to == nil || to.Port == 0 || e.ClassUID != event.NetworkActivity && e.ClassUID != event.HTTPActivity {
		return
	}
	blocked := e.DispositionID == event.Blocked || e.DispositionID == event.Logged
	if blocked && !slices.Contains(learnable, e.StatusCode) || !blocked && e.ClassUID == event.NetworkActivity && e.ActivityID != event.Open {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	exe, _ := program(e)
	f := flow{cmp.Or(to.Hostname, to.IP), to.Port, exe}
	if why := l.unfit(f); why != "" {
		l.remark(why)
		return
	}
	key := ""
	if e.FirewallRule != nil {
		key = e.FirewallRule.Name
	}
	ep := l.endpoint(key, f, e.HTTPRequest)
	into := l.used
	if blocked {
		into = l.denied
	}
	if into[f] == nil {
		if len(into) >= maxLearned {
			l.remark("more connections than can be held were seen; some are left out")
			return
		}
		into[f] = &evidence{read: map[reading]map[string]policy.Match{}}
	}
	l.add(into[f], f, e, ep, blocked)
}

// add notes one event as evidence. ep is the endpoint that decided, if one did.
func (l *learner) add(v *evidence, f flow, e event.Event, ep *policy.Endpoint, blocked bool) {
	read, r := ep != nil && ep.Inspected(), e.HTTPRequest
	switch {
	case r == nil && read:
		return // the requests in it follow
	case r == nil || !read && e.HTTPResponse != nil && e.HTTPResponse.Code == 101: // a websocket that nobody read
		v.whole = true
		v.native = ep != nil && ep.Protocol == policy.TCP
	case v.held >= maxLearned || l.held >= maxRequests:
		l.remark(fmt.Sprintf("%s:%d: more requests than can be held were seen; some are left out", f.host, f.port))
	default:
		how := readingOf(ep, r.URL.Path)
		matches, ok := matchesOf(e, how.protocol)
		if !ok {
			l.remark(fmt.Sprintf("%s:%d: a request cannot be written as a rule: %s %s", f.host, f.port, r.HTTPMethod, r.URL.Path))
			return
		}
		l.held += v.note(how, matches)
		if read && ep.Protocol == policy.WebSocket && ep.Access == "full" {
			l.remark(fmt.Sprintf("%s:%d: binary messages of a websocket are not in events; access: full takes them, and no rule does", f.host, f.port))
		}
	}
	if ep != nil && len(ep.AllowedIPs) > 0 && !blocked {
		l.addAddress(v, f, e.DstEndpoint.IP, ep)
	}
}

func (l *learner) addAddress(v *evidence, f flow, ip string, ep *policy.Endpoint) {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		l.remark(fmt.Sprintf("%s:%d has allowed_ips; which address was reached is not known, so write it yourself", f.host, f.port))
		return
	}
	p := netip.PrefixFrom(a, a.BitLen())
	if !slices.Contains(v.addrs, p) && slices.ContainsFunc(ep.AllowedIPs, func(o netip.Prefix) bool { return o.Contains(a) }) {
		v.addrs = append(v.addrs, p)
	}
}

// unfit says why nothing is ever proposed for a flow.
func (l *learner) unfit(f flow) string {
	addr, err := netip.ParseAddr(f.host)
	canonical, hostErr := match.CanonicalHost(f.host)
	switch {
	case slices.ContainsFunc(l.policy.HostServices, func(s policy.HostService) bool { return s.Host == f.host && s.Port == f.port }):
		return fmt.Sprintf("%s:%d is a service of the host; a person writes those", f.host, f.port)
	case err == nil && (addr.IsLoopback() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() || addr.IsMulticast()),
		f.host == "localhost", strings.HasSuffix(f.host, ".localhost"):
		return fmt.Sprintf("%s:%d is this host; a person writes that under host_services", f.host, f.port)
	case hostErr != nil || canonical != f.host:
		return "a host that has no canonical name was left out"
	case f.exe == "" || path.Clean(f.exe) != f.exe || f.exe[0] != '/' || strings.ContainsAny(f.exe, "*?") || event.Escape(f.exe) != f.exe:
		return fmt.Sprintf("a program that a rule cannot name was left out: %q", f.exe)
	}
	return ""
}

// endpoint finds the endpoint of a network policy that a flow went by: an inspected
// one before others and, of those, the one with the most specific path that a request
// has.
func (l *learner) endpoint(key string, f flow, r *event.HTTPRequest) (found *policy.Endpoint) {
	for i := range l.policy.Network {
		np := &l.policy.Network[i]
		for j := range np.Endpoints {
			ep := &np.Endpoints[j]
			if np.Key != key || !slices.Contains(ep.Ports, f.port) || ep.Host != "" && !match.Host(ep.Host, f.host) && ep.Host != f.host ||
				r != nil && ep.Path != "" && !match.Path(ep.Path, r.URL.Path) {
				continue
			}
			switch {
			case found == nil, !found.Inspected() && ep.Inspected():
				found = ep
			case found.Inspected() && ep.Inspected() && match.ComparePaths(ep.Path, found.Path) < 0:
				found = ep
			}
		}
	}
	return found
}

func (l *learner) remark(text string) {
	if len(l.remarks) < maxLearned {
		l.remarks[text] = true
	}
}
