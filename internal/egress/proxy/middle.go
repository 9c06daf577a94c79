package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/egress/middleware"
	"sallyport/internal/event"
	"sallyport/internal/policy"
)

// through takes a request that the rules allow through the middlewares of its
// host. changed says that it has to be judged again.
func (x *session) through(r *request, v *verdict) (changed bool, no *denial) {
	if v.Middleware.Limit(x.ctx, middleware.Response) > 0 {
		r.Header["Accept-Encoding"] = []string{"identity"} // an encoded answer could not be read
		r.Header.Del("Range")                              // and a part of one hides what it is cut out of
		r.Header.Del("If-Range")
	}
	limit := v.Middleware.Limit(x.ctx, middleware.Request)
	if limit == 0 {
		return false, nil
	}
	m := &middleware.Message{Hook: middleware.Request, Target: r.where(), Header: r.Header}
	body, no := x.hold(r, limit)
	switch {
	case no != nil && no.code != bodyTooLarge:
		no.decision = v.Decision
		return false, no
	case no != nil:
		m.TooLarge = true
	}
	m.Body = body
	if no := x.run(r, v, m); no != nil {
		return false, no
	}
	r.Header = m.Header
	stripOverrides(r.Header)
	if m.TooLarge || bytes.Equal(body, m.Body) {
		return false, nil
	}
	if no := x.charge(r, max(0, int64(len(m.Body)-len(body)))); no != nil {
		no.decision = v.Decision
		return false, no
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(m.Body)), int64(len(m.Body)), nil
	r.whole = true
	return true, nil
}

// run takes a message through the middlewares and reports what they found.
func (x *session) run(r *request, v *verdict, m *middleware.Message) *denial {
	found, err := v.Middleware.Run(x.ctx, m)
	for _, f := range found {
		x.emit(event.Finding(event.Found{
			Kind: "middleware_finding", Title: "middleware " + f.Middleware + ": " + f.Title, Detail: f.Detail,
			Severity: event.Low, Who: &x.who, To: &event.Where{Host: v.host, Port: v.port},
		}))
	}
	if err == nil {
		return nil
	}
	no := &denial{code: middlewareFailed, detail: err.Error(), cause: err, decision: v.Decision}
	switch {
	case refusedBy(err):
		no.code, no.cause = middlewareDenied, nil
	case m.TooLarge:
		no.code = bodyTooLarge
	}
	return no
}

func refusedBy(err error) bool {
	_, ok := errors.AsType[*middleware.Denied](err)
	return ok
}

func (r *request) where() middleware.Target {
	return middleware.Target{Method: r.method, Host: r.host, Port: r.port, Path: r.target.Path, Query: r.target.Raw}
}

// answered takes an answer through the middlewares of its host: as a whole, or
// for a stream of events each of them as it comes. It owns the answer's body
// only if it refuses it. abort ends a Read of it.
func (x *session) answered(r *request, resp *http.Response, v *verdict, abort func()) *denial {
	if len(v.Middleware) == 0 || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	limit := v.Middleware.Limit(x.ctx, middleware.Response)
	if limit == 0 {
		return nil
	}
	m := middleware.Message{Hook: middleware.Response, Target: r.where(), Status: resp.StatusCode, Header: resp.Header}
	if mt, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); strings.EqualFold(strings.TrimSpace(mt), "text/event-stream") && r.method != "HEAD" {
		resp.Body = x.eachEvent(r, resp.Body, v, m, limit)
		resp.ContentLength = -1
		resp.Header.Del("Content-Length")
		return nil
	}
	no := x.holdAnswer(r, resp, &m, limit, abort)
	if no == nil {
		no = x.run(r, v, &m)
	}
	if no != nil {
		no.decision = v.Decision
		resp.Body.Close()
		return no
	}
	resp.Header = m.Header
	if !m.TooLarge && resp.Body != http.NoBody && r.method != "HEAD" {
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(m.Body)), int64(len(m.Body))
		resp.Header["Content-Length"] = []string{strconv.Itoa(len(m.Body))}
	}
	return nil
}

// holdAnswer reads the body of an answer into m, within Limits.BodyTime. One that
// is too large can be read afterwards as if nothing had happened.
func (x *session) holdAnswer(r *request, resp *http.Response, m *middleware.Message, limit int64, abort func()) *denial {
	if resp.Body == nil || resp.Body == http.NoBody || r.method == "HEAD" {
		resp.Body = http.NoBody
		return nil
	}
	if m.TooLarge = resp.ContentLength > limit; m.TooLarge {
		return nil
	}
	need := limit
	if resp.ContentLength >= 0 {
		need = resp.ContentLength
	}
	if no := x.charge(r, need); no != nil {
		return no
	}
	late := time.AfterFunc(x.limits.BodyTime, abort)
	body, err := io.ReadAll(io.LimitReader(counted{resp.Body, x}, limit+1))
	switch {
	case !late.Stop():
		return &denial{code: upstreamTimeout, failed: true, cause: err, detail: "the answer of " + r.host + " took too long"}
	case err != nil:
		return &denial{code: upstreamInvalid, failed: true, cause: err, detail: "the answer of " + r.host + " could not be read"}
	case int64(len(body)) > limit:
		m.TooLarge = true
		resp.Body = rest(body, resp.Body)
	default:
		resp.Body.Close()
		m.Body = body
	}
	return nil
}

// rest is a body of which some has been read.
func rest(begun []byte, body io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(begun), body), body}
}

// errEvent cuts off a stream of events.
var errEvent = errors.New("a middleware has ended the stream")

// eachEvent takes the events of a stream through the middlewares. One that is
// refused, or for which there is no room, ends the stream and is an event of ours.
func (x *session) eachEvent(r *request, body io.ReadCloser, v *verdict, m middleware.Message, limit int64) io.ReadCloser {
	ends := func(no *denial) error {
		if no == nil {
			return nil
		}
		no.decision = v.Decision
		x.record(r.intent, no)
		return errEvent
	}
	each := func(event []byte, tooLarge bool) ([]byte, error) {
		one := m
		one.Header, one.Body, one.TooLarge = m.Header.Clone(), event, tooLarge
		err := ends(x.run(r, v, &one))
		return one.Body, err
	}
	room := func(n int64) error {
		if n < 0 {
			x.held.Add(n)
			r.held += n
			return nil
		}
		return ends(x.charge(r, n))
	}
	return middleware.Events(body, limit, each, room)
}

// middle takes a message of a websocket through the middlewares.
func (t *talk) middle(v *verdict, m middleware.Message) ([]byte, error) {
	limit := v.Middleware.Limit(t.ctx, m.Hook)
	if limit == 0 {
		return m.Body, nil
	}
	m.Target, m.TooLarge = t.r.where(), int64(len(m.Body)) > limit
	if no := t.run(t.r, v, &m); no != nil {
		return nil, t.deny(t.request(), no, v.Decision)
	}
	return m.Body, nil
}

// covered tells whether what a connection carries has to pass middlewares: those
// of an endpoint that is opaque on purpose fail open.
func covered(d Decision) bool {
	e := d.Endpoint
	return len(d.Middleware) > 0 && (e == nil || e.Protocol != policy.TCP && !e.TLSSkip)
}
