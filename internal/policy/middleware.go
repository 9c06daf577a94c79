package policy

import (
	"cmp"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"sallyport/internal/policy/match"
)

// Middleware looks at messages that the rules have allowed, and can change or
// refuse them.
type Middleware struct {
	Key, Name  string
	Middleware string // what it is: RegexMiddleware or GRPCMiddleware
	Order      int32
	FailOpen   bool     // on_error: fail_open; the zero value fails closed
	Include    []string // host patterns; none: every host
	Exclude    []string
	Config     map[string]any // as it is written
	Redactor   *Redactor      // of a RegexMiddleware
	Service    *Service       // of a GRPCMiddleware
	Line       int
}

// What a middleware can be.
const (
	RegexMiddleware = "sallyport/regex"
	GRPCMiddleware  = "sallyport/grpc"
)

// Redactor replaces what matches patterns, or refuses the message.
type Redactor struct {
	Deny      bool // mode: deny
	Requests  bool // bodies of requests, and text messages of WebSocket clients
	Responses bool
	Patterns  []Pattern // none: the built-in ones
	MaxBody   int64     // bytes; 0: the default
}

// Pattern is one regular expression of a Redactor (RE2).
type Pattern struct {
	Name, Regex string
	Replacement string // as it is, without references to groups
}

// Service is a middleware in a process of its own (api/middleware/v1).
type Service struct {
	Address  string         // http://, https:// or unix:
	Timeout  time.Duration  // of one call; 0: the default
	Settings map[string]any // for the service
}

// Covers says whether messages to a canonical host pass the middleware.
func (m *Middleware) Covers(host string) bool {
	matches := func(pattern string) bool { return match.Host(pattern, host) }
	return (len(m.Include) == 0 || slices.ContainsFunc(m.Include, matches)) && !slices.ContainsFunc(m.Exclude, matches)
}

func (d *decoder) middlewares(n ast.Node, p *Policy) {
	orders := map[int32]string{}
	d.named(n, "network_middlewares", func(key string, k, v ast.Node) {
		m := d.middleware(key, k, v)
		if other, taken := orders[m.Order]; taken {
			d.fail(k, "middleware %q has the order of %q", clip(key), clip(other))
		}
		orders[m.Order] = key
		p.Middlewares = append(p.Middlewares, m)
	})
	if len(p.Middlewares) > 10 {
		d.fail(n, "network_middlewares: at most 10, found %d", len(p.Middlewares))
	}
	slices.SortFunc(p.Middlewares, func(a, b Middleware) int { return cmp.Compare(a.Order, b.Order) })
}

func (d *decoder) middleware(key string, k, v ast.Node) Middleware {
	m := Middleware{Key: key, Name: key}
	m.Line, _ = position(k)
	config := k
	hosts := func(to *[]string, what string) func(ast.Node) {
		return d.list(what, 32, func(n ast.Node) { *to = append(*to, d.host(n, what)) })
	}
	seen := d.mapping(v, "a middleware", fields{
		"name": d.text(&m.Name, "name"),
		"middleware": d.word("middleware", func(i int) { m.Middleware = []string{RegexMiddleware, GRPCMiddleware, RegexMiddleware}[i] },
			RegexMiddleware, GRPCMiddleware, "openshell/regex"),
		"order": func(n ast.Node) {
			if o, ok := d.integer(n, "order", -1<<31, 1<<31-1); ok {
				m.Order = int32(o)
			}
		},
		"config":   func(n ast.Node) { config, m.Config = n, d.generic(n, "config") },
		"on_error": d.word("on_error", func(i int) { m.FailOpen = i == 1 }, "fail_closed", "fail_open"),
		"endpoints": func(n ast.Node) {
			d.mapping(n, "endpoints", fields{
				"include": hosts(&m.Include, "include"),
				"exclude": hosts(&m.Exclude, "exclude"),
			})
		},
	})
	d.need(k, "a middleware", seen, "middleware", "order")
	switch {
	case m.Middleware == RegexMiddleware:
		m.Redactor = d.redactor(config, seen["config"] != nil)
	case m.Middleware == GRPCMiddleware && seen["config"] == nil:
		d.fail(k, "%s needs a config with the address of the service", GRPCMiddleware)
	case m.Middleware == GRPCMiddleware:
		m.Service = d.service(config)
	}
	return m
}

func (d *decoder) redactor(n ast.Node, has bool) *Redactor {
	r := &Redactor{Requests: true}
	if !has {
		return r
	}
	d.mapping(n, "config of "+RegexMiddleware, fields{
		"mode": d.word("mode", func(i int) { r.Deny = i == 1 }, "redact", "deny"),
		"apply": func(n ast.Node) {
			var to []string
			d.texts(&to, "apply", 2)(n)
			r.Requests, r.Responses = slices.Contains(to, "requests"), slices.Contains(to, "responses")
			if slices.ContainsFunc(to, func(s string) bool { return s != "requests" && s != "responses" }) || len(to) == 0 {
				d.fail(n, "apply: expected a list of requests and responses")
			}
		},
		"patterns":       d.list("patterns", 64, func(n ast.Node) { r.Patterns = append(r.Patterns, d.regex(n)) }),
		"max_body_bytes": d.size(&r.MaxBody, "max_body_bytes", maxBody),
	})
	return r
}

func (d *decoder) regex(n ast.Node) Pattern {
	p := Pattern{}
	at := n
	seen := d.mapping(n, "a pattern", fields{
		"name":        d.text(&p.Name, "name"),
		"regex":       func(n ast.Node) { at = n; d.text(&p.Regex, "regex")(n) },
		"replacement": d.text(&p.Replacement, "replacement"),
	})
	d.need(n, "a pattern", seen, "name", "regex")
	if seen["replacement"] == nil {
		p.Replacement = "[redacted:" + p.Name + "]"
	}
	re, err := regexp.Compile(p.Regex)
	switch {
	case len(p.Regex) > 1024:
		d.fail(at, "regex: at most 1024 characters")
	case err != nil:
		d.fail(at, "regex: %v", err)
	case re.MatchString(""):
		d.fail(at, "regex: %q matches nothing at all, everywhere", clip(p.Regex))
	}
	return p
}

func (d *decoder) service(n ast.Node) *Service {
	s := &Service{}
	seen := d.mapping(n, "config of "+GRPCMiddleware, fields{
		"address": func(n ast.Node) {
			d.text(&s.Address, "address")(n)
			if why := serviceAddress(s.Address); why != "" {
				d.fail(n, "address: %s", why)
			}
		},
		"timeout_ms": func(n ast.Node) {
			if ms, ok := d.integer(n, "timeout_ms", 10, 30000); ok {
				s.Timeout = time.Duration(ms) * time.Millisecond
			}
		},
		"settings": func(n ast.Node) { s.Settings = d.generic(n, "settings") },
	})
	d.need(n, "config of "+GRPCMiddleware, seen, "address")
	return s
}

// serviceAddress says what is wrong with the address of a service. It is not
// one of the agent's destinations and needs no rule.
func serviceAddress(s string) string {
	if file, is := strings.CutPrefix(s, "unix:"); is {
		if !path.IsAbs(file) || path.Clean(file) != file || len(file) > 100 {
			return "expected unix: and an absolute path of at most 100 characters"
		}
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return "expected http://HOST:PORT, https://HOST:PORT or unix:/PATH"
	}
	if a, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && (err != nil || !a.IsLoopback()) {
		return "http is for loopback addresses; what the agent sends is not sent over a network in the clear"
	}
	return ""
}

// generic reads a mapping whose meaning is somebody else's.
func (d *decoder) generic(n ast.Node, what string) map[string]any {
	out := map[string]any{}
	d.named(n, what, func(key string, _, v ast.Node) { out[key] = d.anything(v, what) })
	return out
}

func (d *decoder) anything(n ast.Node, what string) any {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value
	case *ast.LiteralNode:
		return v.Value.Value
	case *ast.BoolNode:
		return v.Value
	case *ast.FloatNode:
		return v.Value
	case *ast.IntegerNode:
		i, _ := d.integer(n, what, -1<<53, 1<<53)
		return i
	case *ast.SequenceNode:
		out := []any{}
		for _, item := range v.Values {
			out = append(out, d.anything(item, what))
		}
		return out
	case *ast.MappingNode, *ast.MappingValueNode:
		return d.generic(n, what)
	}
	d.fail(n, "%s: expected text, a number, true or false, a list or a mapping, found %s", what, describe(n))
	return nil
}

// coverable refuses a middleware that covers what it cannot see into and must
// not let pass.
func (d *decoder) coverable(p *Policy) {
	for _, m := range p.Middlewares {
		if m.FailOpen {
			continue
		}
		for _, np := range p.Network {
			for _, e := range np.Endpoints {
				if (e.TLSSkip || e.Protocol == TCP) && m.overlaps(e.Host) {
					d.errs = append(d.errs, &PositionError{File: d.file, Line: m.Line, Col: 1, Excerpt: d.line(m.Line),
						Msg: "middleware " + clip(m.Key) + " covers " + cmp.Or(e.Host, "addresses") + " of line " + itoa(e.Line) + ", which is an opaque tunnel; exclude the host"})
				}
			}
		}
	}
}

// overlaps says whether some host of a pattern may be covered.
func (m *Middleware) overlaps(host string) bool {
	if slices.Contains(m.Exclude, host) || !strings.Contains(host, "*") && host != "" && !m.Covers(host) {
		return false
	}
	return len(m.Include) == 0 || slices.ContainsFunc(m.Include, func(pattern string) bool { return match.HostsOverlap(pattern, host) })
}
