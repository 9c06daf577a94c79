package inference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// Keys holds the secrets of backends. It must be safe for concurrent use.
type Keys interface {
	// Authorize writes a provider's key into headers.
	Authorize(ctx context.Context, provider string, h http.Header) error
	// ScrubFor takes a provider's key out of an answer, as it streams.
	ScrubFor(provider string, resp *http.Response) error
	// Free is an error if bytes hold a placeholder.
	Free(b []byte) error
}

// Options of a Router. All but Now are required.
type Options struct {
	Config    *policy.Inference
	Keys      Keys
	Transport http.RoundTripper // reaches backends; must follow no redirect
	Now       func() time.Time
}

// Defaults of the limits.
const (
	defaultBody       = 10 << 20 // bytes
	defaultConcurrent = 16
	defaultPerMinute  = 600
)

// Router is inference.local. It is safe for concurrent use.
type Router struct {
	routes    []policy.Route
	keys      Keys
	transport http.RoundTripper
	maxBody   int64
	places    chan struct{}
	pace      pace
}

// New makes a Router.
func New(o Options) (*Router, error) {
	if o.Config == nil || len(o.Config.Routes) == 0 || o.Keys == nil || o.Transport == nil {
		return nil, errors.New("bug: inference: no routes, no keys or no transport")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := o.Config
	perMinute := or(c.PerMinute, defaultPerMinute)
	return &Router{
		routes: c.Routes, keys: o.Keys, transport: o.Transport, maxBody: or(c.MaxBody, defaultBody),
		places: make(chan struct{}, or(c.MaxConcurrent, defaultConcurrent)),
		pace:   pace{now: o.Now, rate: float64(perMinute), left: float64(perMinute)},
	}, nil
}

func or[T int | int64](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// pace is a bucket that holds as many requests as a minute may have, and is
// filled evenly.
type pace struct {
	now  func() time.Time
	rate float64 // a minute

	mu   sync.Mutex
	left float64
	at   time.Time
}

// take is how long to wait; 0 if the request may go.
func (p *pace) take() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if !p.at.IsZero() {
		p.left = min(p.rate, p.left+now.Sub(p.at).Minutes()*p.rate)
	}
	p.at = now
	if p.left < 1 {
		return max(time.Duration((1-p.left)/p.rate*float64(time.Minute)), time.Second)
	}
	p.left--
	return 0
}

// calls are the paths that are known, by dialect.
var calls = map[policy.API]map[string]call{
	policy.OpenAI: {
		"/v1/chat/completions": {generates: true, limit: "max_completion_tokens", also: "max_tokens"},
		"/v1/completions":      {generates: true, limit: "max_tokens"},
		"/v1/responses":        {generates: true, limit: "max_output_tokens"},
		"/v1/embeddings":       {},
	},
	policy.Anthropic: {
		"/v1/messages":              {generates: true, limit: "max_tokens"},
		"/v1/messages/count_tokens": {},
	},
}

// call is what is special about one path.
type call struct {
	generates bool
	limit     string // the field that bounds what is generated
	also      string // its older name
}

const modelsPath = "/v1/models"

// RoundTrip answers one request that was allowed and has its length: a body of
// more than MaxBody is not read. The answer may be a refusal in
// the request's own dialect, marked by the header X-Sallyport-Policy; the error
// is nil.
func (r *Router) RoundTrip(req *http.Request) (*http.Response, error) {
	api, what, known := r.find(req)
	if !known {
		return refuse(req, api, 403, "inference_path", "inference.local does not serve "+req.Method+" "+clip(req.URL.Path)), nil
	}
	if wait := r.pace.take(); wait > 0 {
		resp := refuse(req, api, 429, "inference_rate", "more requests a minute than this sandbox may make")
		resp.Header.Set("Retry-After", fmt.Sprint(int(wait.Seconds()+0.999)))
		return resp, nil
	}
	select {
	case r.places <- struct{}{}:
	default:
		return refuse(req, api, 429, "inference_busy", fmt.Sprintf("%d requests are under way, which is the limit", cap(r.places))), nil
	}
	resp := r.serve(req, api, what)
	resp.Body = &released{ReadCloser: resp.Body, release: func() { <-r.places }}
	return resp, nil
}

// released gives a place back when the answer has ended.
type released struct {
	io.ReadCloser
	once    sync.Once
	release func()
}

func (b *released) Close() error {
	b.once.Do(b.release)
	return b.ReadCloser.Close()
}

// find tells which call a request makes, and in which dialect.
func (r *Router) find(req *http.Request) (api policy.API, what call, known bool) {
	path := req.URL.EscapedPath()
	if req.Method == http.MethodGet && (path == modelsPath || modelOf(path) != "") {
		return r.dialect(req), call{}, true
	}
	for _, api := range []policy.API{policy.OpenAI, policy.Anthropic} {
		if what, known = calls[api][path]; known && req.Method == http.MethodPost {
			return api, what, r.serves(api)
		}
	}
	return r.dialect(req), call{}, false
}

// dialect of a request whose path both have.
func (r *Router) dialect(req *http.Request) policy.API {
	if req.Header.Get("Anthropic-Version") != "" && r.serves(policy.Anthropic) || !r.serves(policy.OpenAI) {
		return policy.Anthropic
	}
	return policy.OpenAI
}

func (r *Router) serves(api policy.API) bool {
	for _, route := range r.routes {
		if route.API == api {
			return true
		}
	}
	return false
}

// modelOf is the last segment of /v1/models/NAME, empty if there is none.
func modelOf(path string) string {
	name, ok := strings.CutPrefix(path, modelsPath+"/")
	if !ok {
		return ""
	}
	name, err := url.PathUnescape(name)
	if err != nil || strings.ContainsAny(name, "/\\") || name == "." || name == ".." {
		return ""
	}
	return name
}

func (r *Router) serve(req *http.Request, api policy.API, what call) *http.Response {
	if req.Method == http.MethodGet {
		return r.models(req, api)
	}
	if n := req.ContentLength; n < 0 || n > r.maxBody {
		return refuse(req, api, 413, "inference_body_too_large", fmt.Sprintf("the body is longer than %d bytes, which is the limit", r.maxBody))
	}
	b, err := io.ReadAll(req.Body)
	if err != nil {
		return refuse(req, api, 400, "inference_body", "the body could not be read")
	}
	if err := r.keys.Free(b); err != nil {
		return refuse(req, api, 403, "credential_misplaced", err.Error())
	}
	ask, err := parse(b)
	if err != nil {
		return refuse(req, api, 400, "inference_body", err.Error())
	}
	route, use, ok := r.route(api, ask.model)
	if !ok {
		return refuse(req, api, 403, "inference_model", fmt.Sprintf("no route serves model %q; allowed are %s", clip(ask.model), strings.Join(r.names(api), ", ")))
	}
	ask.use(use)
	if err := ask.limit(what, route.MaxTokens); err != nil {
		return refuse(req, api, 400, "inference_limit", err.Error())
	}
	return r.forward(req, route, http.MethodPost, req.URL.EscapedPath(), ask.encode())
}

// route gives the first one that serves the model, and what its backend calls it.
func (r *Router) route(api policy.API, model string) (policy.Route, string, bool) {
	for _, route := range r.routes {
		if route.API != api {
			continue
		}
		if len(route.Models) == 0 {
			return route, model, true
		}
		for _, m := range route.Models {
			if !match.Glob(m.Name, model) {
				continue
			}
			if m.Use == "" {
				return route, model, true
			}
			return route, m.Use, true
		}
	}
	return policy.Route{}, "", false
}

// passed are the headers of a request that a backend gets to see.
var passed = []string{"Content-Type", "Accept", "User-Agent", "Anthropic-Version", "Anthropic-Beta", "Openai-Beta", "Idempotency-Key"}

// forward sends a request to a backend and gives its answer.
func (r *Router) forward(req *http.Request, route policy.Route, method, path string, body []byte) *http.Response {
	ctx, cancel := context.WithCancel(req.Context())
	timer := time.AfterFunc(route.Timeout, cancel)
	out, err := http.NewRequestWithContext(ctx, method, route.Base+path, bytes.NewReader(body))
	if err != nil {
		cancel()
		return refuse(req, route.API, 502, "inference_backend", "the backend's URL cannot be used")
	}
	for _, name := range passed {
		if v := req.Header.Get(name); v != "" {
			out.Header.Set(name, v)
		}
	}
	out.Header.Set("Accept-Encoding", "identity")
	if route.Provider != "" {
		if err := r.keys.Authorize(ctx, route.Provider, out.Header); err != nil {
			cancel()
			return refuse(req, route.API, 503, "credential_unavailable", err.Error())
		}
	}
	resp, err := r.transport.RoundTrip(out)
	intime := timer.Stop()
	switch {
	case err != nil && !intime:
		err = errors.New("the backend did not answer in time")
	case err != nil:
		err = errors.New("the backend could not be reached")
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		err = errors.New("the backend answered with a redirect, which is not followed")
	case route.Provider != "":
		err = r.keys.ScrubFor(route.Provider, resp)
	}
	if err != nil {
		if resp != nil {
			resp.Body.Close()
		}
		cancel()
		status := 502
		if !intime {
			status = 504
		}
		return refuse(req, route.API, status, "inference_backend", err.Error())
	}
	return answer(req, resp, cancel)
}

// answer is a backend's answer without what is not for the agent.
func answer(req *http.Request, resp *http.Response, cancel func()) *http.Response {
	h := http.Header{}
	for name, values := range resp.Header {
		if shown(name) {
			h[name] = values
		}
	}
	return &http.Response{
		StatusCode: resp.StatusCode, Status: resp.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, ContentLength: resp.ContentLength, Request: req,
		Body: &released{ReadCloser: resp.Body, release: cancel},
	}
}

// shown tells which headers of an answer the agent gets to see.
func shown(name string) bool {
	switch name {
	case "Content-Type", "Content-Length", "Retry-After", "X-Request-Id", "Request-Id", "Retry-After-Ms", "X-Should-Retry":
		return true
	}
	for _, p := range []string{"X-Ratelimit-", "Anthropic-Ratelimit-", "Openai-"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// MaxBody is how long a request's body may be, in bytes.
func (r *Router) MaxBody() int64 { return r.maxBody }
