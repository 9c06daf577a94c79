package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
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

// maxLearned bounds what one session can make the learner hold: connections of
// a program to a host and port, and requests of one of these.
const maxLearned = 1024

// learner writes down what a session used, and what it was denied. It never lets
// anything through: it only listens.
type learner struct {
	file   *os.File
	policy *policy.Policy // that the session started with

	mu      sync.Mutex
	used    map[flow]*evidence
	denied  map[flow]*evidence
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
	whole    bool                    // a connection that was not read
	native   bool                    // by protocol: tcp
	requests map[string]policy.Match // by their text
	addrs    []netip.Prefix          // that only allowed_ips opens
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
	ep := l.endpoint(key, f)
	into := l.used
	if blocked {
		into = l.denied
	}
	if into[f] == nil {
		if len(into) >= maxLearned {
			l.remark("more connections than can be held were seen; some are left out")
			return
		}
		into[f] = &evidence{requests: map[string]policy.Match{}}
	}
	l.add(into[f], f, e, ep, blocked)
}

// add notes one event as evidence. ep is the endpoint that decided, if one did.
func (l *learner) add(v *evidence, f flow, e event.Event, ep *policy.Endpoint, blocked bool) {
	read := ep != nil && ep.Inspected()
	if read && ep.Protocol != policy.REST {
		l.remark(fmt.Sprintf("%s:%d has protocol: %s; what was asked in it is not in events, so its rules are for you to keep", f.host, f.port, ep.Protocol))
		return
	}
	r := e.HTTPRequest
	switch {
	case r == nil && read:
		return // the requests in it follow
	case r == nil || !read && e.HTTPResponse != nil && e.HTTPResponse.Code == 101: // a websocket that nobody read
		v.whole = true
		v.native = ep != nil && ep.Protocol == policy.TCP
	case len(v.requests) >= maxLearned:
		l.remark(fmt.Sprintf("%s:%d: more requests than can be held were seen; some are left out", f.host, f.port))
	default:
		m, ok := matchOf(r)
		if !ok {
			l.remark(fmt.Sprintf("%s:%d: a path or query cannot be written as a rule: %s", f.host, f.port, r.URL.Path))
			return
		}
		v.requests[m.Render()] = m
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

// endpoint finds the endpoint of a network policy that a flow went by, an
// inspected one before others.
func (l *learner) endpoint(key string, f flow) (found *policy.Endpoint) {
	for i := range l.policy.Network {
		np := &l.policy.Network[i]
		for j := range np.Endpoints {
			ep := &np.Endpoints[j]
			if np.Key != key || !slices.Contains(ep.Ports, f.port) || ep.Host != "" && !match.Host(ep.Host, f.host) && ep.Host != f.host {
				continue
			}
			if found == nil || found.Protocol == policy.Raw {
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

// done writes what was learned and tells a person where it is.
func (l *learner) done(note func(string), document []byte) {
	if err := l.close(document); err != nil {
		note(fmt.Sprintf("%s: what was learned could not be written: %v", l.file.Name(), err))
		return
	}
	l.mu.Lock() // an event can be late
	n, used, denied := anyValue(l.used), len(l.used), len(l.denied)
	l.mu.Unlock()
	wider := ""
	if n > 0 {
		wider = fmt.Sprintf("; values of queries are not recorded, and %d rules take any", n)
	}
	note(fmt.Sprintf("%s: connections of %d kinds were used, %d were denied%s; read it before you use it", l.file.Name(), used, denied, wider))
}

// anyValue counts the requests that stand for others, which differ in the values of
// their query.
func anyValue(seen map[flow]*evidence) (n int) {
	for _, v := range seen {
		for _, m := range v.requests {
			if !v.whole && len(m.Query) > 0 {
				n++
			}
		}
	}
	return n
}

// close writes what was learned. document is the policy of the session.
func (l *learner) close(document []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	b.WriteString("# What one session used, as the narrowest policy that allows it. Read it before you\n" +
		"# use it: a program chose these hosts and paths. What was denied is at the end, as\n# comments.\n")
	if anyValue(l.used)+anyValue(l.denied) > 0 {
		b.WriteString("# Values of queries are not recorded: KEY: \"*\" takes every value, not only those seen.\n")
	}
	for _, r := range sorted(l.remarks) {
		b.WriteString("# not learned: " + event.Escape(r) + "\n")
	}
	if document == nil {
		b.WriteString(builtIn(l.policy))
	} else {
		b.WriteString(otherSections(document))
	}
	b.WriteString(policy.Render(asPolicies(l.used)))
	if len(l.denied) > 0 {
		b.WriteString("\n# denied; add what you want to allow to network_policies:\n#\n")
		for line := range strings.Lines(policy.Render(asPolicies(l.denied))) {
			b.WriteString("# " + line)
		}
	}
	_, err := io.WriteString(l.file, b.String())
	if e := l.file.Close(); err == nil {
		err = e
	}
	return err
}

func sorted(set map[string]bool) []string {
	var out []string
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// asPolicies makes a policy for each program.
func asPolicies(seen map[flow]*evidence) []policy.NetworkPolicy {
	addrs := map[flow][]netip.Prefix{} // endpoints of one host and port agree on them
	slashes := map[flow]bool{}         // and on allow_encoded_slash
	var flows []flow
	for f, v := range seen {
		if !v.whole && len(v.requests) == 0 {
			continue
		}
		flows = append(flows, f)
		place := flow{host: f.host, port: f.port}
		addrs[place] = append(addrs[place], v.addrs...)
		for _, m := range v.requests {
			slashes[place] = slashes[place] || strings.Contains(m.Path, "%2F") || strings.Contains(m.Path, "%5C")
		}
	}
	for place, list := range addrs {
		slices.SortFunc(list, netip.Prefix.Compare)
		addrs[place] = slices.Compact(list)
	}
	slices.SortFunc(flows, func(a, b flow) int {
		return cmp.Or(cmp.Compare(a.exe, b.exe), cmp.Compare(a.host, b.host), cmp.Compare(a.port, b.port))
	})
	var out []policy.NetworkPolicy
	for _, f := range flows {
		if len(out) == 0 || out[len(out)-1].Binaries[0].Path != f.exe {
			out = append(out, policy.NetworkPolicy{Key: freeKey(out, path.Base(f.exe)), Binaries: []policy.Binary{{Path: f.exe}}})
		}
		e := seen[f].endpoint(f)
		place := flow{host: f.host, port: f.port}
		e.AllowedIPs, e.L7.AllowEncodedSlash = addrs[place], e.Protocol == policy.REST && slashes[place]
		np := &out[len(out)-1]
		np.Endpoints = append(np.Endpoints, e)
	}
	return out
}

// endpoint is the narrowest that allows what was seen.
func (v *evidence) endpoint(f flow) policy.Endpoint {
	e := policy.Endpoint{Host: f.host, Ports: []uint16{f.port}}
	switch {
	case v.native:
		e.Protocol = policy.TCP
	case !v.whole:
		e.Protocol = policy.REST
		order := func(a, b policy.Match) int {
			return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Render(), b.Render()))
		}
		for _, m := range slices.SortedFunc(maps.Values(v.requests), order) {
			e.Rules = append(e.Rules, policy.Rule{Allow: m})
		}
	}
	return e
}

func freeKey(taken []policy.NetworkPolicy, name string) string {
	key := cmp.Or(policy.KeyFor(strings.ToLower(name)), "program")
	for n := 2; slices.ContainsFunc(taken, func(p policy.NetworkPolicy) bool { return p.Key == key }); n++ {
		key = fmt.Sprintf("%s-%d", cmp.Or(policy.KeyFor(strings.ToLower(name)), "program"), n)
	}
	return key
}

// otherSections is a policy without its network_policies, so that what is
// learned takes the place of what there was.
func otherSections(document []byte) string {
	var b strings.Builder
	inside := false
	for line := range strings.Lines(string(document)) {
		if line[0] != ' ' && line[0] != '\n' && line[0] != '#' && line[0] != '-' && line[0] != '\t' {
			inside = strings.HasPrefix(line, "network_policies:")
		}
		if !inside {
			b.WriteString(line)
		}
	}
	out := strings.TrimRight(b.String(), "\n") + "\n"
	now, _, err1 := policy.Parse("now", document)
	next, _, err2 := policy.Parse("next", []byte(out))
	if err1 != nil || err2 != nil || len(next.Network) > 0 || len(policy.Fixed(now, next)) > 0 {
		return "version: 1\n# the other sections are those of the policy of the session\n"
	}
	return out
}

// builtIn is the built-in policy as a document, with the paths that there are.
func builtIn(p *policy.Policy) string {
	there := func(paths []string) string {
		var out []string
		for _, path := range paths {
			if _, err := os.Stat(path); err == nil {
				out = append(out, path)
			}
		}
		return "[" + strings.Join(out, ", ") + "]"
	}
	return fmt.Sprintf("version: 1\nfilesystem_policy:\n  include_workdir: %t\n  read_only: %s\n  read_write: %s\n",
		p.Filesystem.IncludeWorkdir, there(p.Filesystem.ReadOnly), there(p.Filesystem.ReadWrite))
}
