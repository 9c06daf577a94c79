package cli

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sallyport/internal/egress/l7/http"
	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
	"sallyport/internal/policy/rego"
	"sallyport/internal/supervisor"
)

// requestFlags say which request is to be explained, and under which policy.
type requestFlags struct {
	policy, sandbox, binary string
	ancestors               []string
	operation, call, tool   string
}

// explained is what policy explain --json prints of a request; the names are
// stable.
type explained struct {
	Request    string   `json:"request"`
	Binary     string   `json:"binary"`
	Allow      bool     `json:"allow"`
	Audited    bool     `json:"audited,omitempty"` // it would be denied, and is only reported
	Inspected  bool     `json:"inspected"`         // false: the connection is allowed as a whole, or not at all
	Reason     string   `json:"reason"`
	Detail     string   `json:"detail,omitempty"`
	File       string   `json:"file"`
	Generation uint64   `json:"generation,omitempty"`
	Policy     string   `json:"policy,omitempty"` // key in network_policies
	Line       int      `json:"line,omitempty"`
	Text       string   `json:"text,omitempty"` // of that line
	Missing    string   `json:"rule_missing,omitempty"`
	AllowedIPs []string `json:"allowed_ips,omitempty"`

	scope string // what else Missing would allow
}

// explainRequest decides about a request as the proxy would.
func explainRequest(ctx context.Context, f requestFlags, words []string) (explained, error) {
	method, target := "", words[len(words)-1]
	if len(words) == 2 {
		method = words[0]
	}
	in, req, err := f.request(method, target)
	if err != nil {
		return explained{}, err
	}
	name, document, generation, err := f.document(ctx)
	if err != nil {
		return explained{}, err
	}
	p, _, err := supervisor.ReadPolicy(name, document)
	if err != nil {
		return explained{}, err
	}
	engine, err := rego.Compile(p, generation)
	if err != nil {
		return explained{}, err
	}
	out := explained{Request: strings.Join(words, " "), Binary: f.binary, File: name, Generation: generation}
	conn, err := engine.Decide(ctx, in)
	if err != nil {
		return out, err
	}
	out.Allow, out.Reason, out.Detail, out.Policy, out.Line = conn.Allow, conn.Reason, conn.Detail, conn.Policy, conn.Line
	for _, p := range conn.AllowedIPs {
		out.AllowedIPs = append(out.AllowedIPs, p.String())
	}
	if m := conn.Missing; m != nil {
		out.Missing, out.scope = renderMissing(*m, policy.Raw, nil), scopeOf(policy.Raw, nil)
	}
	out.Inspected = conn.Allow && conn.Endpoint.Inspected()
	if out.Inspected && req.Method != "" {
		if err := out.request(ctx, engine, in, req); err != nil {
			return out, err
		}
	}
	if lines := strings.Split(string(document), "\n"); out.Line > 0 && out.Line <= len(lines) {
		out.Text = strings.TrimSpace(lines[out.Line-1])
	}
	return out, nil
}

// request adds what the rules say about the request.
func (x *explained) request(ctx context.Context, engine *rego.Engine, in rego.Input, req policy.Request) error {
	r, err := engine.DecideRequest(ctx, in, req)
	if err != nil {
		return err
	}
	x.Allow, x.Audited, x.Reason, x.Detail, x.Policy, x.Line = r.Allow, r.Audited, r.Reason, r.Detail, r.Policy, r.Line
	if m := r.Missing; m != nil {
		x.Missing, x.scope = renderMissing(m.RuleMissing, m.Protocol, &m.Allow), scopeOf(m.Protocol, &m.Allow)
	}
	return nil
}

// scopeOf says what a rule that is proposed for a request allows beside it, as the
// end of a sentence.
func scopeOf(protocol policy.Protocol, allow *policy.Match) string {
	switch {
	case allow == nil:
		return ", for every request to that host and port"
	case protocol != policy.REST:
		return ", whatever else is in such a request"
	}
	but := ""
	for _, values := range allow.Query {
		switch {
		case slices.Equal(values, []string{"*"}):
			return ` and nothing else, but for the values of its query: "*" takes any`
		case len(values) > 1:
			but = ", but for which of these values its query has, and how often"
		case but == "":
			but = ", but for how often a value of its query is there"
		}
	}
	return " and nothing else" + but
}

// renderMissing is the narrowest rule as YAML.
func renderMissing(m rego.RuleMissing, protocol policy.Protocol, allow *policy.Match) string {
	e := policy.Endpoint{Host: m.Host, Ports: []uint16{m.Port}, Protocol: protocol}
	if allow != nil {
		e.Rules = []policy.Rule{{Allow: *allow}}
	}
	return policy.Render([]policy.NetworkPolicy{{Key: policy.KeyFor(m.Host), Endpoints: []policy.Endpoint{e}, Binaries: []policy.Binary{{Path: m.Binary}}}})
}

// request reads what was given on the command line.
func (f requestFlags) request(method, target string) (rego.Input, policy.Request, error) {
	in := rego.Input{Exe: f.binary, Ancestors: f.ancestors}
	req := policy.Request{Method: strings.ToUpper(method)}
	if f.binary == "" {
		return in, req, usagef("--binary says which program asks; rules are about programs")
	}
	for _, path := range append([]string{f.binary}, f.ancestors...) {
		if !filepath.IsAbs(path) {
			return in, req, usagef("%q: expected the absolute path of an executable", path)
		}
	}
	if !strings.Contains(target, "://") {
		target = "tcp://" + target
	}
	u, err := url.Parse(target)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return in, req, usagef("%q: expected a URL, or HOST:PORT", target)
	}
	if in.Host, err = match.CanonicalHost(u.Hostname()); err != nil {
		return in, req, usagef("%v", err)
	}
	ports := map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443"}
	port := u.Port()
	if port == "" {
		port = ports[u.Scheme]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return in, req, usagef("%q: expected a port", target)
	}
	in.Port = uint16(n)
	if u.Scheme == "tcp" {
		if method != "" {
			return in, req, usagef("a method needs a URL")
		}
		return in, req, nil
	}
	if req.Method == "" {
		req.Method = "GET"
	}
	to, err := http.Parse(u.EscapedPath() + query(u))
	if u.Path == "" {
		to, err = http.Parse("/" + query(u))
	}
	if err != nil {
		return in, req, usagef("%v", err)
	}
	req.Path, req.Query = to.Path, to.Query
	return in, req, f.inside(&req)
}

func query(u *url.URL) string {
	if u.RawQuery == "" {
		return ""
	}
	return "?" + u.RawQuery
}

// inside adds what a body would hold.
func (f requestFlags) inside(req *policy.Request) error {
	switch {
	case f.operation != "":
		kind, field, _ := strings.Cut(f.operation, ":")
		if !slices.Contains([]string{"query", "mutation", "subscription"}, kind) {
			return usagef("--operation %q: expected query, mutation or subscription, then :FIELD", f.operation)
		}
		op := policy.Operation{Type: kind}
		if field != "" {
			op.Fields = []string{field}
		}
		req.Operations = []policy.Operation{op}
	case f.tool != "":
		req.Calls = []policy.Call{{Method: "tools/call", Tool: f.tool}}
	case f.call != "":
		req.Calls = []policy.Call{{Method: f.call}}
	}
	return nil
}

// document is the policy to explain with.
func (f requestFlags) document(ctx context.Context) (name string, document []byte, generation uint64, err error) {
	if f.policy != "" {
		document, err = readPolicy(f.policy)
		return f.policy, document, 0, err
	}
	a, err := askSandbox(ctx, f.sandbox, supervisor.Question{Ask: supervisor.AskPolicy})
	if err != nil {
		return "", nil, 0, fmt.Errorf("%w; --policy names a policy file", err)
	}
	if a.Document == "" {
		a.Document = "version: 1\n" // the built-in one, which allows nothing
	}
	return a.Sandbox.Policy, []byte(a.Document), a.Sandbox.Generation, nil
}

// String is the explanation in sentences.
func (x explained) String() string {
	var b strings.Builder
	row := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-8s %s\n", label, event.Escape(text))
		}
	}
	verdict := "denied"
	switch {
	case x.Audited:
		verdict = "audited"
	case x.Allow:
		verdict = "allowed"
	}
	row(verdict, x.Request)
	row("program", x.Binary)
	switch {
	case x.Audited:
		row("why", x.Detail+"; it passes because the endpoint has enforcement: audit")
	case !x.Allow:
		row("why", x.Detail)
		row("code", x.Reason)
	case x.Inspected:
		row("why", "a rule allows this request")
	default:
		row("why", "a rule allows the connection, and what is in it is not read")
	}
	row("policy", x.File)
	if x.Policy != "" {
		row("rule", fmt.Sprintf("%s %s:%d  %s", x.Policy, x.File, x.Line, x.Text))
	}
	if x.Allow {
		row("address", x.addresses())
	}
	if x.Missing != "" {
		b.WriteString("\nthis would allow it" + x.scope + ":\n\n" + x.Missing)
	}
	return b.String()
}

func (x explained) addresses() string {
	if len(x.AllowedIPs) == 0 {
		return "any public one that the name leads to"
	}
	return "any public one that the name leads to, and " + strings.Join(x.AllowedIPs, ", ")
}

// denialOf asks a running sandbox for one of its denials.
func denialOf(ctx context.Context, sandbox, id string) (event.Event, error) {
	a, err := askSandbox(ctx, sandbox, supervisor.Question{Ask: supervisor.AskDenial, ID: id})
	if err != nil {
		return event.Event{}, err
	}
	if a.Denial == nil {
		return event.Event{}, fmt.Errorf("no denial has the id %q", id)
	}
	return *a.Denial, nil
}

// journals are the files that denials of this user's sessions are in.
func journals() []string {
	path := journalPath(os.Getenv)
	return []string{path, path + ".old"}
}
