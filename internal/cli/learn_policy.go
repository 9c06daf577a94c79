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

	"sallyport/internal/event"
	"sallyport/internal/policy"
)

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
		wider = fmt.Sprintf("; values of queries, variables, arguments and messages are not recorded, and %d rules take any", n)
	}
	note(fmt.Sprintf("%s: connections of %d kinds were used, %d were denied%s; read it before you use it", l.file.Name(), used, denied, wider))
}

// anyValue counts the rules that stand for more than what was seen, by the values of
// a query, by the variables or arguments of an operation, or by what a message says.
func anyValue(seen map[flow]*evidence) (n int) {
	for _, v := range seen {
		for how, matches := range v.read {
			for _, m := range matches {
				if !v.whole && (len(m.Query) > 0 || m.AboutOperations() || m.Method == policy.MethodText || how.protocol == policy.JSONRPC || how.protocol == policy.MCP) {
					n++
				}
			}
		}
	}
	return n
}

// close writes what was learned. document is the policy of the session.
func (l *learner) close(document []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remarkSilent(l.used)
	var b strings.Builder
	b.WriteString("# What one session used, as the narrowest policy that allows it. Read it before you\n" +
		"# use it: a program chose these hosts and paths. What was denied is at the end, as\n# comments.\n")
	if anyValue(l.used)+anyValue(l.denied) > 0 {
		b.WriteString("# Values of queries, variables, arguments and messages are not recorded: KEY: \"*\" takes\n" +
			"# every value, and a rule for an operation or a text takes any, not only those seen.\n")
	}
	for _, r := range slices.Sorted(maps.Keys(l.remarks)) {
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
	text := b.String()
	if _, _, err := policy.Parse("learned", []byte(text)); err != nil { // the policy has changed meanwhile, and what was read by both does not agree
		first, _, _ := strings.Cut(err.Error(), "\n")
		text = "# This is no policy yet: " + event.Escape(first) + "\n" + text
	}
	_, err := io.WriteString(l.file, text)
	if e := l.file.Close(); err == nil {
		err = e
	}
	return err
}

// remarkSilent says where MCP was spoken without a call: there is no rule for that.
func (l *learner) remarkSilent(seen map[flow]*evidence) {
	for f, v := range seen {
		for how, matches := range v.read {
			if len(matches) == 0 {
				l.remark(fmt.Sprintf("%s:%d: nothing was called at %s, and a rule of protocol: %s is about calls", f.host, f.port, how.path, how.protocol))
			}
		}
	}
}

// asPolicies makes a policy for each program.
func asPolicies(seen map[flow]*evidence) []policy.NetworkPolicy {
	addrs := map[flow][]netip.Prefix{} // endpoints of one host and port agree on them
	slashes := map[flow]bool{}         // and on allow_encoded_slash
	allow := map[flow][]policy.Endpoint{}
	for f, v := range seen {
		endpoints := v.endpoints(f)
		if len(endpoints) == 0 {
			continue
		}
		allow[f] = endpoints
		place := flow{host: f.host, port: f.port}
		addrs[place] = append(addrs[place], v.addrs...)
		for _, matches := range v.read {
			for _, m := range matches {
				slashes[place] = slashes[place] || strings.Contains(m.Path, "%2F") || strings.Contains(m.Path, "%5C")
			}
		}
	}
	for place, list := range addrs {
		slices.SortFunc(list, netip.Prefix.Compare)
		addrs[place] = slices.Compact(list)
	}
	flows := slices.SortedFunc(maps.Keys(allow), func(a, b flow) int {
		return cmp.Or(cmp.Compare(a.exe, b.exe), cmp.Compare(a.host, b.host), cmp.Compare(a.port, b.port))
	})
	var out []policy.NetworkPolicy
	for _, f := range flows {
		if len(out) == 0 || out[len(out)-1].Binaries[0].Path != f.exe {
			out = append(out, policy.NetworkPolicy{Key: freeKey(out, path.Base(f.exe)), Binaries: []policy.Binary{{Path: f.exe}}})
		}
		place := flow{host: f.host, port: f.port}
		for _, e := range allow[f] {
			e.AllowedIPs, e.L7.AllowEncodedSlash = addrs[place], e.Inspected() && slashes[place]
			np := &out[len(out)-1]
			np.Endpoints = append(np.Endpoints, e)
		}
	}
	return out
}

// endpoints are the narrowest that allow what was seen.
func (v *evidence) endpoints(f flow) (out []policy.Endpoint) {
	e := policy.Endpoint{Host: f.host, Ports: []uint16{f.port}}
	if v.whole {
		if v.native {
			e.Protocol = policy.TCP
		}
		return []policy.Endpoint{e}
	}
	for how, matches := range v.read {
		if len(matches) == 0 {
			continue
		}
		e := how.endpoint(e)
		for _, m := range matches {
			e.Rules = append(e.Rules, policy.Rule{Allow: m})
		}
		slices.SortFunc(e.Rules, func(a, b policy.Rule) int {
			return cmp.Or(cmp.Compare(a.Allow.Path, b.Allow.Path), cmp.Compare(a.Allow.Method, b.Allow.Method), cmp.Compare(a.Allow.Render(), b.Allow.Render()))
		})
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b policy.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

// endpoint is e with what it takes to read requests so.
func (r reading) endpoint(e policy.Endpoint) policy.Endpoint {
	e.Protocol, e.Path = r.protocol, r.path
	switch r.protocol {
	case policy.GraphQL, policy.WebSocket:
		e.L7.GraphQLMaxBody = r.maxBody
	case policy.JSONRPC:
		e.L7.JSONRPCMaxBody = r.maxBody
	case policy.MCP:
		e.L7.MCPMaxBody, e.L7.MCPLooseToolNames = r.maxBody, r.looseTool
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
