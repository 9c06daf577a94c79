package policy

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Parse reads and validates one document. The error is Errors, with everything
// that is wrong; a document with an error gives no policy. Warnings are about
// things that are allowed and easily misunderstood. name is for messages.
func Parse(name string, src []byte) (p *Policy, warns []Warning, err error) {
	d := &decoder{file: name, lines: strings.Split(string(src), "\n")}
	defer func() {
		// The YAML library is not ours; a document that breaks it is refused.
		if r := recover(); r != nil {
			p, err = nil, Errors{{File: name, Msg: "not valid YAML"}}
		}
	}()
	root := d.document(src)
	p = &Policy{NetworkCapture: true, Source: name}
	if root != nil {
		d.policy(root, p)
	}
	if len(d.errs) > 0 {
		return nil, d.warns, d.errs.sorted()
	}
	return p, d.warns, nil
}

func (d *decoder) policy(root ast.Node, p *Policy) {
	var sockets, services ast.Node
	seen := d.mapping(root, "a policy", fields{
		"version": func(n ast.Node) {
			if v, ok := d.integer(n, "version", 1, 1); ok {
				p.Version = int(v)
			}
		},
		"network_enforcement": d.word("network_enforcement", func(i int) { p.NetworkEnforcement = Mode(i + 1) }, "platform", "namespace"),
		"filesystem_policy":   func(n ast.Node) { d.filesystem(n, &p.Filesystem) },
		"landlock":            func(n ast.Node) { d.landlock(n, &p.Landlock) },
		"process":             func(n ast.Node) { d.process(n, &p.Process) },
		"network_policies":    func(n ast.Node) { d.networkPolicies(n, p) },
		"network_middlewares": func(n ast.Node) { d.middlewares(n, p) },
		"host_services":       func(n ast.Node) { services = n; d.hostServices(n, p) },
		"network_capture":     d.capture(&p.NetworkCapture),
		"sockets":             func(n ast.Node) { sockets = n; d.sockets(n, &p.Sockets) },
	})
	if seen["version"] == nil {
		d.fail(root, "version is missing; expected version: 1")
	}
	d.published(sockets, p)
	d.ambiguous(p)
	d.coverable(p)
	_ = services
}

// capture reads on and off, which YAML 1.1 takes for booleans and 1.2 for text.
func (d *decoder) capture(to *bool) func(ast.Node) {
	return func(n ast.Node) {
		if b, is := n.(*ast.BoolNode); is {
			*to = b.Value
			return
		}
		d.word("network_capture", func(i int) { *to = i == 0 }, "on", "off")(n)
	}
}

const maxPaths = 256

func (d *decoder) filesystem(n ast.Node, f *Filesystem) {
	paths := func(to *[]string, what string, write bool) func(ast.Node) {
		return d.list(what, maxPaths, func(n ast.Node) {
			var s string
			d.text(&s, what)(n)
			switch {
			case s == "" || !d.path(n, what, s):
			case write && strings.Trim(s, "/.") == "":
				d.fail(n, "%s: / would make the whole host writable; name the directories", what)
			case slices.Contains(*to, s):
				d.fail(n, "%s: %q is listed twice", what, clip(s))
			default:
				*to = append(*to, s)
			}
		})
	}
	d.mapping(n, "filesystem_policy", fields{
		"include_workdir": d.boolean(&f.IncludeWorkdir, "include_workdir"),
		"read_only":       paths(&f.ReadOnly, "read_only", false),
		"read_write":      paths(&f.ReadWrite, "read_write", true),
	})
	if len(f.ReadOnly)+len(f.ReadWrite) > maxPaths {
		d.fail(n, "filesystem_policy: at most %d paths, found %d", maxPaths, len(f.ReadOnly)+len(f.ReadWrite))
	}
}

func (d *decoder) landlock(n ast.Node, l *Landlock) {
	d.mapping(n, "landlock", fields{
		"compatibility": d.word("compatibility", func(i int) { l.Compatibility = Compatibility(i) }, "hard_requirement", "best_effort"),
	})
}

func (d *decoder) process(n ast.Node, p *Process) {
	who := func(to *string, what string) func(ast.Node) {
		return func(n ast.Node) {
			if _, is := n.(*ast.IntegerNode); is {
				if _, ok := d.integer(n, what, 1, math.MaxUint32-1); ok {
					*to = n.String()
				}
				return
			}
			d.text(to, what)(n)
			switch {
			case *to == "root" || strings.Trim(*to, "0") == "":
				d.fail(n, "%s: the agent never runs as root", what)
			case strings.ContainsAny(*to, "/: \t\n") || len(*to) > 64:
				d.fail(n, "%s: expected a user name or a number from 1 to 4294967294", what)
			}
		}
	}
	d.mapping(n, "process", fields{
		"run_as_user":  who(&p.RunAsUser, "run_as_user"),
		"run_as_group": who(&p.RunAsGroup, "run_as_group"),
	})
}

func (d *decoder) hostServices(n ast.Node, p *Policy) {
	d.list("host_services", 256, func(n ast.Node) {
		var s HostService
		s.Line, _ = position(n)
		seen := d.mapping(n, "a host service", fields{
			"host": func(n ast.Node) {
				if s.Host = d.host(n, "host"); strings.Contains(s.Host, "*") {
					d.fail(n, "host: a host service has one exact name")
				}
			},
			"port": func(n ast.Node) { s.Port, _ = d.port(n, "port") },
			"to": func(n ast.Node) {
				var t string
				d.text(&t, "to")(n)
				a, err := netip.ParseAddrPort(t)
				if err != nil || a.Port() == 0 || !a.Addr().Unmap().IsLoopback() {
					d.fail(n, "to: expected a loopback address with a port, such as \"127.0.0.1:11434\", found %q", clip(t))
					return
				}
				s.To = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			},
		})
		d.need(n, "a host service", seen, "host", "port", "to")
		if slices.ContainsFunc(p.HostServices, func(o HostService) bool { return o.Host == s.Host && o.Port == s.Port }) {
			d.fail(n, "a second host service for %s:%d", s.Host, s.Port)
		}
		p.HostServices = append(p.HostServices, s)
	})(n)
}

func (d *decoder) need(n ast.Node, what string, seen map[string]ast.Node, keys ...string) {
	for _, k := range keys {
		if seen[k] == nil {
			d.fail(n, "%s needs %q", what, k)
		}
	}
}

func (d *decoder) sockets(n ast.Node, s *Sockets) {
	d.mapping(n, "sockets", fields{
		"unix": d.list("unix", 64, func(n ast.Node) {
			var p string
			d.text(&p, "unix")(n)
			if p != "" && d.path(n, "unix", p) {
				s.Unix = append(s.Unix, p)
			}
		}),
		"bind": d.list("bind", 256, func(n ast.Node) {
			if r, ok := d.portRange(n, "bind"); ok {
				s.Bind = append(s.Bind, r)
			}
		}),
		"publish": d.list("publish", 256, func(n ast.Node) {
			if p, ok := d.port(n, "publish"); ok {
				s.Publish = append(s.Publish, p)
			}
		}),
	})
}

func (d *decoder) published(n ast.Node, p *Policy) {
	for _, port := range p.Sockets.Publish {
		if !slices.ContainsFunc(p.Sockets.Bind, func(r PortRange) bool { return port >= r.First && port <= r.Last }) {
			d.fail(n, "publish: %d is not among the ports of bind", port)
		}
	}
}

func (d *decoder) networkPolicies(n ast.Node, p *Policy) {
	d.named(n, "network_policies", func(key string, k, v ast.Node) {
		np := NetworkPolicy{Key: key, Name: key}
		np.Line, _ = position(k)
		seen := d.mapping(v, "a network policy", fields{
			"name": d.text(&np.Name, "name"),
			"endpoints": d.list("endpoints", 1024, func(n ast.Node) {
				np.Endpoints = append(np.Endpoints, d.endpoint(n))
			}),
			"binaries": d.list("binaries", 256, func(n ast.Node) {
				np.Binaries = append(np.Binaries, d.binary(n))
			}),
		})
		if seen["endpoints"] == nil {
			d.fail(k, "network policy %q needs \"endpoints\"", clip(key))
		}
		if len(np.Binaries) == 0 {
			d.warn(k, "network policy %q lists no binaries, so no program matches it", clip(key))
		}
		p.Network = append(p.Network, np)
	})
	slices.SortFunc(p.Network, func(a, b NetworkPolicy) int { return strings.Compare(a.Key, b.Key) })
}

func (d *decoder) binary(n ast.Node) Binary {
	var b Binary
	b.Line, _ = position(n)
	seen := d.mapping(n, "a binary", fields{"path": func(n ast.Node) {
		d.text(&b.Path, "path")(n)
		if b.Path != "" && !strings.HasPrefix(b.Path, "**") {
			d.path(n, "path", b.Path)
		}
	}})
	d.need(n, "a binary", seen, "path")
	return b
}
