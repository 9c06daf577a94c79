package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"sallyport/internal/event"
	"sallyport/internal/policy"
)

// judge is the first half of the pipeline for one request: may this program
// reach the host, may it ask for this, and what do the middlewares make of it.
// What they change is judged again, so that what is sent is what was judged.
func (x *session) judge(r *request) (verdict, *denial) {
	v, no := x.ruled(r)
	if no != nil || !covered(v.Decision) {
		return v, no
	}
	changed, no := x.through(r, &v)
	if no != nil || !changed {
		return v, no
	}
	return x.ruled(r)
}

// ruled is judge without the middlewares.
func (x *session) ruled(r *request) (verdict, *denial) {
	v, no := x.decide(r.intent)
	if no != nil || !v.read {
		return v, no
	}
	if v.Endpoint == nil || v.Endpoint.Protocol == policy.Raw {
		return v, x.offered(r, v.Decision) // read for its credentials or middlewares only
	}
	about := policy.Request{Method: r.method, Path: r.target.Path, Query: r.target.Query}
	e, found := x.owner(&v, r)
	if found {
		no := x.admissible(r, e, v.Decision)
		if no == nil {
			no = x.readBody(r, e, &about, v.Decision)
			r.operations = told(about)
		}
		if no != nil {
			return v, no
		}
	}
	d, no := x.rule(&v, about)
	if no == nil && !found {
		no = &denial{code: policyDenied, detail: "no endpoint has the path", reason: "no_endpoint_for_path", decision: d}
	}
	if no != nil {
		return v, no
	}
	r.about = about
	stripOverrides(r.Header)
	stripOverrides(r.Trailer) // some servers put trailers among the header's fields
	return v, x.offered(r, d)
}

// told is what events say of the operations and calls of a request.
func told(q policy.Request) []event.Operation {
	var all []event.Operation
	for _, o := range q.Operations {
		all = append(all, event.Operation{Type: o.Type, Name: o.Name, Fields: o.Fields, Persisted: o.Persisted})
	}
	for _, c := range q.Calls {
		all = append(all, event.Operation{Method: c.Method, Tool: c.Tool})
	}
	return all
}

// offered reads the handshake of a request that asks for an upgrade.
func (x *session) offered(r *request, d Decision) *denial {
	if !r.upgrade {
		return nil
	}
	if err := r.offer(); err != nil {
		return &denial{code: badRequestCode, detail: err.Error(), decision: d}
	}
	return nil
}

// rule asks the rules about a request and puts the answer into the verdict.
func (x *session) rule(v *verdict, about policy.Request) (Decision, *denial) {
	d, err := x.askAbout(v, about)
	d.HostService, d.AllowedIPs, d.Middleware = v.HostService, v.AllowedIPs, v.Middleware
	v.Decision = d
	switch {
	case err != nil:
		return d, &denial{code: policyDenied, detail: "the policy gave no decision", reason: "policy_error", cause: err, decision: d}
	case !d.Allow:
		return d, &denial{code: policyDenied, detail: d.Detail, reason: d.Reason, decision: d, missing: d.Missing.rule()}
	case d.Endpoint == nil:
		return d, &denial{code: policyDenied, detail: "the policy gave no decision", reason: "policy_error", cause: errors.New("bug: allowed by no endpoint"), decision: d}
	}
	return d, nil
}

func (x *session) owner(v *verdict, r *request) (e *policy.Endpoint, ok bool) {
	defer func() {
		if recover() != nil {
			e, ok = nil, false
		}
	}()
	return (*v.by).Endpoint(x.ctx, *v.query, r.target.Path)
}

// askAbout is DecideRequest; an engine that panics has not allowed anything.
func (x *session) askAbout(v *verdict, r policy.Request) (d Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = Decision{}, fmt.Errorf("bug: policy engine: %v", p)
		}
	}()
	return (*v.by).DecideRequest(x.ctx, *v.query, r)
}

// admissible refuses what an endpoint does not take whatever its rules say.
func (x *session) admissible(r *request, e *policy.Endpoint, d Decision) *denial {
	d.Endpoint, d.Line = e, e.Line
	switch {
	case r.target.EncodedSlash && !e.L7.AllowEncodedSlash:
		return &denial{code: badRequestCode, detail: "URI path: escaped slash or backslash, which this endpoint does not allow", decision: d}
	case len(r.Header["Content-Type"]) > 1:
		return &denial{code: badRequestCode, detail: "more than one Content-Type", decision: d}
	case r.upgrade && e.Protocol != policy.WebSocket:
		return &denial{code: policyDenied, reason: "upgrade_not_allowed", detail: "an upgrade to a websocket needs an endpoint with protocol: websocket", decision: d}
	}
	return nil
}

// overrides are fields by which a client asks some servers to take another
// method, path or host than the request says. They end here.
var overrides = map[string]bool{
	"X-Http-Method-Override": true, "X-Http-Method": true, "X-Method-Override": true,
	"X-Original-Url": true, "X-Rewrite-Url": true, "X-Original-Uri": true, "X-Original-Method": true,
	"X-Forwarded-Host": true, "X-Forwarded-Uri": true, "X-Forwarded-Prefix": true, "X-Forwarded-Path": true, "X-Host": true, "Forwarded": true,
}

// stripOverrides also takes away what a gateway to CGI or WSGI would read as one
// of the overrides or as a field that frames the message: to such a gateway an
// underscore in a name is a hyphen, and to some (lighttpd) every byte that is
// neither letter nor digit.
func stripOverrides(h http.Header) {
	for k := range h {
		if overrides[k] {
			delete(h, k)
			continue
		}
		plain := strings.Map(hyphen, k)
		if plain == k {
			continue
		}
		if name := http.CanonicalHeaderKey(plain); overrides[name] || hop[name] || decisive[name] {
			delete(h, k)
		}
	}
}

// hyphen gives a hyphen for what is neither letter nor digit.
func hyphen(c rune) rune {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return c
	}
	return '-'
}

// decisive are further fields whose meaning a second spelling would put in doubt.
var decisive = map[string]bool{"Content-Type": true, "Content-Encoding": true, "Authorization": true, "Cookie": true}
