package policy

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"sallyport/internal/policy/profile"
)

// ParseRunConfig reads and validates one document of run --config, with the
// strictness and the errors of Parse.
func ParseRunConfig(name string, src []byte) (c *RunConfig, err error) {
	d := &decoder{file: name, lines: strings.Split(string(src), "\n")}
	defer func() {
		if r := recover(); r != nil { // as in Parse
			c, err = nil, Errors{{File: name, Msg: "not valid YAML"}}
		}
	}()
	root := d.document(src)
	c = &RunConfig{Source: name}
	if root != nil {
		d.runConfig(root, c)
	}
	if len(d.errs) > 0 {
		return nil, d.errs.sorted()
	}
	return c, nil
}

func (d *decoder) runConfig(root ast.Node, c *RunConfig) {
	seen := d.mapping(root, "a run configuration", fields{
		"version": func(n ast.Node) {
			if v, ok := d.integer(n, "version", 1, 1); ok {
				c.Version = int(v)
			}
		},
		"providers": func(n ast.Node) {
			d.named(n, "providers", func(name string, k, v ast.Node) { c.Providers = append(c.Providers, d.provider(name, k, v)) })
			if len(c.Providers) > maxProviders {
				d.fail(n, "providers: at most %d, found %d", maxProviders, len(c.Providers))
			}
		},
		"inference": func(n ast.Node) { c.Inference = d.inference(n) },
	})
	if seen["version"] == nil {
		d.fail(root, "version is missing; expected version: 1")
	}
	slices.SortFunc(c.Providers, func(a, b Provider) int { return strings.Compare(a.Name, b.Name) })
	if len(d.errs) == 0 {
		d.together(c, seen)
	}
}

const maxProviders = 32

// together holds the rules that look at more than one provider or route.
func (d *decoder) together(c *RunConfig, seen map[string]ast.Node) {
	owner := map[string]string{}
	for _, p := range c.Providers {
		for i, cred := range p.Profile.Credentials {
			for _, name := range cred.Env {
				if !p.Sources[i].Given() {
					continue
				}
				if other := owner[name]; other != "" {
					d.failAt(p.Line, "the variable %s is set by provider %q already; give one of them another env", name, other)
				}
				owner[name] = p.Name
			}
		}
	}
	if c.Inference == nil {
		return
	}
	for _, r := range c.Inference.Routes {
		i := slices.IndexFunc(c.Providers, func(p Provider) bool { return p.Name == r.Provider })
		switch {
		case r.Provider == "":
		case i < 0:
			d.failAt(r.Line, "there is no provider %q under providers", clip(r.Provider))
		case c.Providers[i].Profile.Signs:
			d.failAt(r.Line, "provider %q signs requests; a route needs a key that is sent", r.Provider)
		}
	}
}

func (d *decoder) failAt(line int, format string, args ...any) {
	d.errs = append(d.errs, &PositionError{File: d.file, Line: line, Col: 1, Excerpt: d.line(line), Msg: fmt.Sprintf(format, args...)})
}

// generic are the fields of a provider that change its profile.
type generic struct {
	header, scheme, query, segment, prefix string
	env                                    []string
	endpoints                              []profile.Endpoint
}

func (d *decoder) provider(name string, k, v ast.Node) Provider {
	p := Provider{Name: name}
	p.Line, _ = position(k)
	id := name
	var g generic
	var one, many, eps ast.Node
	seen := d.mapping(v, "a provider", fields{
		"profile":        d.text(&id, "profile"),
		"source":         func(n ast.Node) { one = n },
		"sources":        func(n ast.Node) { many = n },
		"env":            func(n ast.Node) { g.env = d.variables(n) },
		"endpoints":      func(n ast.Node) { eps = n },
		"header":         func(n ast.Node) { d.headerName(n, &g.header) },
		"scheme":         d.short(&g.scheme, "scheme"),
		"query":          d.short(&g.query, "query"),
		"segment_prefix": d.short(&g.segment, "segment_prefix"),
		"prefix":         d.short(&g.prefix, "prefix"),
	})
	var known bool
	if p.Profile, known = profile.Find(id); !known {
		at := k
		if seen["profile"] != nil {
			at = seen["profile"]
		}
		d.fail(at, "there is no profile %q; known are %s", clip(id), strings.Join(profileIDs(), ", "))
		return p
	}
	if eps != nil {
		d.list("endpoints", 64, func(n ast.Node) { g.endpoints = append(g.endpoints, d.boundTo(n, p.Profile.Signs)) })(eps)
	}
	d.tailor(k, &p.Profile, g, seen)
	p.Sources = make([]Source, len(p.Profile.Credentials))
	d.sourcesOf(k, &p, one, many)
	return p
}

func profileIDs() []string {
	var ids []string
	for _, p := range profile.All() {
		ids = append(ids, p.ID)
	}
	return ids
}

// tailor fits a profile to what a provider says of itself.
func (d *decoder) tailor(k ast.Node, p *profile.Profile, g generic, seen map[string]ast.Node) {
	for _, c := range []struct {
		key, profile string
		needed       bool
	}{{"header", "header", true}, {"scheme", "header", false}, {"query", "query", true}, {"segment_prefix", "path", false}} {
		switch {
		case seen[c.key] != nil && p.ID != c.profile:
			d.fail(seen[c.key], "%s belongs to profile: %s", c.key, c.profile)
		case seen[c.key] == nil && p.ID == c.profile && c.needed:
			d.fail(k, "profile: %s needs %q", p.ID, c.key)
		}
	}
	for _, key := range []string{"prefix", "env"} {
		if seen[key] != nil && len(p.Credentials) > 1 {
			d.fail(seen[key], "%s: profile %s has more than one credential", key, p.ID)
			return
		}
	}
	if seen["prefix"] != nil && !p.Generic {
		d.fail(seen["prefix"], "prefix: profile %s knows how its keys look", p.ID)
	}
	if p.Generic {
		c := &p.Credentials[0]
		if len(g.env) == 0 {
			d.fail(k, "profile: %s needs \"env\", the variable in which the agent finds the placeholder", p.ID)
		}
		if g.prefix != "" {
			c.Shape.Prefix = g.prefix
		}
		switch p.ID {
		case "header":
			c.Places[0].Name, c.Places[0].Scheme = g.header, g.scheme
		case "query":
			c.Places[0].Name = g.query
		case "path":
			c.Places[0].Scheme = g.segment
		}
	}
	if len(g.env) > 0 {
		p.Credentials[0].Env = g.env
	}
	if len(g.endpoints) > 0 {
		p.Endpoints = g.endpoints
	}
}

// sourcesOf reads source, for the one credential of most profiles, or sources.
func (d *decoder) sourcesOf(k ast.Node, p *Provider, one, many ast.Node) {
	creds := p.Profile.Credentials
	switch {
	case one != nil && many != nil:
		d.fail(many, "give source or sources, not both")
		return
	case one != nil && len(creds) > 1:
		d.fail(one, "profile %s has %d credentials; give them under sources", p.Profile.ID, len(creds))
		return
	case one != nil:
		p.Sources[0] = d.source(one)
		return
	}
	known := fields{}
	for i := range creds {
		known[creds[i].Name] = func(n ast.Node) { p.Sources[i] = d.source(n) }
	}
	seen := map[string]ast.Node{}
	if many != nil {
		seen = d.mapping(many, "sources of profile "+p.Profile.ID, known)
	}
	for _, c := range creds {
		switch {
		case seen[c.Name] != nil || c.Optional:
		case len(creds) == 1:
			d.fail(k, "provider %q needs a source, such as source: {env: NAME}", clip(p.Name))
		default:
			d.fail(k, "provider %q needs a source for %s", clip(p.Name), c.Name)
		}
	}
}

func (d *decoder) source(n ast.Node) Source {
	var s Source
	s.Line, _ = position(n)
	before := len(d.errs)
	seen := d.mapping(n, "a source", fields{
		"env": func(n ast.Node) {
			if names := d.variables(n); len(names) == 1 {
				s.Env = names[0]
			}
		},
		"file": func(n ast.Node) {
			d.text(&s.File, "file")(n)
			if s.File != "" {
				d.path(n, "file", s.File)
			}
		},
		"command": d.list("command", 64, func(n ast.Node) {
			var word string
			d.text(&word, "command")(n)
			s.Command = append(s.Command, word)
		}),
		"ttl": d.duration(&s.TTL, "ttl", 10*time.Second, 24*time.Hour),
		"keyring": func(n ast.Node) {
			d.need(n, "keyring", d.mapping(n, "keyring", fields{
				"service": d.short(&s.Service, "service"), "account": d.short(&s.Account, "account"),
			}), "service", "account")
		},
	})
	given := 0
	for _, key := range []string{"env", "file", "command", "keyring"} {
		if seen[key] != nil {
			given++
		}
	}
	switch {
	case len(d.errs) > before:
	case given != 1:
		d.fail(n, "a source is one of env, file, command and keyring")
	case seen["ttl"] != nil && seen["command"] == nil && seen["keyring"] == nil:
		d.fail(seen["ttl"], "ttl belongs to command and keyring; a file is read again when it changes")
	case seen["command"] != nil && (len(s.Command) == 0 || s.Command[0] == ""):
		d.fail(n, "command: expected a program and its arguments")
	case s.TTL == 0 && seen["env"] == nil && seen["file"] == nil:
		s.TTL = DefaultTTL
	}
	return s
}

// boundTo reads one place where a credential may go.
func (d *decoder) boundTo(n ast.Node, patterns bool) profile.Endpoint {
	e := profile.Endpoint{Port: 443}
	seen := d.mapping(n, "an endpoint", fields{
		"host": func(n ast.Node) {
			if e.Host = d.host(n, "host"); strings.Contains(e.Host, "*") && !patterns {
				d.fail(n, "host: a credential goes to exact hosts; name each")
			}
		},
		"port":   func(n ast.Node) { e.Port, _ = d.port(n, "port") },
		"path":   func(n ast.Node) { d.pattern(n, "path", &e.Path) },
		"scheme": d.word("scheme", func(i int) { e.HTTP = i == 1 }, "https", "http"),
	})
	d.need(n, "an endpoint", seen, "host")
	if e.HTTP && seen["port"] == nil {
		e.Port = 80
	}
	if e.Host == InferenceHost {
		d.fail(n, "%s takes no credentials: its backends are routes under inference", InferenceHost)
	}
	return e
}

// variables reads one name of an environment variable or a list of them.
func (d *decoder) variables(n ast.Node) []string {
	var names []string
	read := func(n ast.Node) {
		var s string
		d.text(&s, "env")(n)
		if s != "" && !variable(s) {
			d.fail(n, "env: %q is no name of a variable", clip(s))
			return
		}
		names = append(names, s)
	}
	if _, is := n.(*ast.StringNode); is {
		read(n)
		return names
	}
	d.list("env", 8, read)(n)
	return names
}

func variable(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// headerName reads the name of a header that may hold a key.
func (d *decoder) headerName(n ast.Node, to *string) {
	d.short(to, "header")(n)
	*to = textproto.CanonicalMIMEHeaderKey(*to)
	if slices.Contains(notForKeys, *to) || strings.ContainsAny(*to, " :()<>@,;\\\"/[]?={}") {
		d.fail(n, "header: %q cannot hold a key", clip(*to))
	}
}

// notForKeys decide where a message goes or ends, or what an answer looks like.
var notForKeys = []string{
	"Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Te", "Trailer", "Expect", "Content-Encoding", "Content-Type",
	"Accept-Encoding", "Range", "Proxy-Authorization", "Cookie",
}

// short reads a word of printable ASCII without spaces.
func (d *decoder) short(to *string, what string) func(ast.Node) {
	return func(n ast.Node) {
		before := len(d.errs)
		d.text(to, what)(n)
		if len(d.errs) > before {
			return
		}
		if *to == "" || len(*to) > 128 || strings.ContainsFunc(*to, func(r rune) bool { return r <= ' ' || r > '~' }) {
			d.fail(n, "%s: expected 1 to 128 printable characters without spaces, found %q", what, clip(*to))
		}
	}
}

func (d *decoder) duration(to *time.Duration, what string, least, most time.Duration) func(ast.Node) {
	return func(n ast.Node) {
		var s string
		before := len(d.errs)
		d.text(&s, what)(n)
		if len(d.errs) > before {
			return
		}
		v, err := time.ParseDuration(s)
		if err != nil || v < least || v > most {
			d.fail(n, "%s: expected a time from %v to %v such as 15m, found %q", what, least, most, clip(s))
			return
		}
		*to = v
	}
}
