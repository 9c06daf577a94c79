package policy

import (
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

func (d *decoder) inference(n ast.Node) *Inference {
	i := &Inference{}
	i.Line, _ = position(n)
	count := func(to *int, what string, most int64) func(ast.Node) {
		return func(n ast.Node) {
			if v, ok := d.integer(n, what, 1, most); ok {
				*to = int(v)
			}
		}
	}
	seen := d.mapping(n, "inference", fields{
		"max_body_bytes":      d.size(&i.MaxBody, "max_body_bytes", 64<<20),
		"max_concurrent":      count(&i.MaxConcurrent, "max_concurrent", 1024),
		"requests_per_minute": count(&i.PerMinute, "requests_per_minute", 1e6),
		"routes":              d.list("routes", 32, func(n ast.Node) { i.Routes = append(i.Routes, d.route(n)) }),
	})
	d.need(n, "inference", seen, "routes")
	if seen["routes"] != nil && len(i.Routes) == 0 {
		d.fail(n, "inference needs at least one route")
	}
	return i
}

func (d *decoder) route(n ast.Node) Route {
	r := Route{Timeout: 10 * time.Minute}
	r.Line, _ = position(n)
	seen := d.mapping(n, "a route", fields{
		"api":        d.word("api", func(i int) { r.API = []API{OpenAI, Anthropic}[i] }, string(OpenAI), string(Anthropic)),
		"base_url":   func(n ast.Node) { d.baseURL(n, &r.Base) },
		"provider":   d.text(&r.Provider, "provider"),
		"models":     d.list("models", 64, func(n ast.Node) { r.Models = append(r.Models, d.model(n)) }),
		"max_tokens": d.size(&r.MaxTokens, "max_tokens", 1<<30),
		"timeout":    d.duration(&r.Timeout, "timeout", time.Second, time.Hour),
	})
	d.need(n, "a route", seen, "api", "base_url")
	if r.Provider != "" && strings.HasPrefix(r.Base, "http://") && !loopback(r.Base) {
		d.fail(n, "base_url: a key is sent over https only, or to this host")
	}
	return r
}

func (d *decoder) model(n ast.Node) Model {
	var m Model
	d.need(n, "a model", d.mapping(n, "a model", fields{"name": d.short(&m.Name, "name"), "use": d.short(&m.Use, "use")}), "name")
	if strings.Contains(m.Use, "*") {
		d.fail(n, "use: expected the name of one model")
	}
	return m
}

// baseURL reads the URL before /v1.
func (d *decoder) baseURL(n ast.Node, to *string) {
	var s string
	d.text(&s, "base_url")(n)
	u, err := url.Parse(s)
	switch {
	case s == "":
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		d.fail(n, "base_url: expected a URL such as https://api.openai.com, found %q", clip(s))
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(s, "#?"):
		d.fail(n, "base_url: only scheme, host, port and path; a key belongs to a provider")
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1"):
		d.fail(n, "base_url: leave /v1 out, it is part of the request's path")
	case u.Hostname() == InferenceHost:
		d.fail(n, "base_url: %s cannot be its own backend", InferenceHost)
	default:
		*to = strings.TrimRight(s, "/")
	}
}

// loopback tells whether a URL leads to this host itself.
func loopback(base string) bool {
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && a.IsLoopback()
}
