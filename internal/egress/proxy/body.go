package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"sallyport/internal/egress/l7/graphql"
	"sallyport/internal/egress/l7/jsonrpc"
	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/egress/l7/mcp"
	"sallyport/internal/policy"
)

// defaultBody is how much of a body is held where the policy does not say.
const defaultBody = 64 << 10

// bodyReader finds in a body what rules are about.
type bodyReader struct {
	limit func(*policy.Endpoint) int64
	read  func(q *policy.Request, h http.Header, body []byte, e *policy.Endpoint, limit int64) error
}

// bodyReaders has a row for each protocol whose rules look into bodies.
var bodyReaders = map[policy.Protocol]bodyReader{
	policy.GraphQL: {
		func(e *policy.Endpoint) int64 { return e.L7.GraphQLMaxBody },
		func(q *policy.Request, h http.Header, body []byte, _ *policy.Endpoint, limit int64) (err error) {
			q.Operations, err = graphql.Read(*q, h, body, graphql.Options{MaxBody: limit})
			return err
		},
	},
	policy.JSONRPC: {
		func(e *policy.Endpoint) int64 { return e.L7.JSONRPCMaxBody },
		func(q *policy.Request, h http.Header, body []byte, _ *policy.Endpoint, limit int64) (err error) {
			q.Calls, err = jsonrpc.Read(*q, h, body, jsonrpc.Options{MaxBody: limit})
			return err
		},
	},
	policy.MCP: {
		func(e *policy.Endpoint) int64 { return e.L7.MCPMaxBody },
		func(q *policy.Request, h http.Header, body []byte, e *policy.Endpoint, limit int64) (err error) {
			q.Calls, err = mcp.Read(*q, h, body, mcp.Options{MaxBody: limit, LooseToolNames: e.L7.MCPLooseToolNames})
			return err
		},
	},
}

// readBody adds to q what the body of a request asks for. The body is held, and
// the same bytes are sent on. What cannot be read is denied, in audit too.
func (x *session) readBody(r *request, e *policy.Endpoint, q *policy.Request, d Decision) *denial {
	by, ok := bodyReaders[e.Protocol]
	if !ok {
		return nil
	}
	d.Endpoint, d.Line = e, e.Line
	limit := by.limit(e)
	if limit <= 0 {
		limit = defaultBody
	}
	body, no := x.hold(r, limit)
	if no == nil {
		no = understood(by.read(q, r.Header, body, e, limit))
	}
	if no == nil {
		no = x.charge(r, sizeOf(q))
	}
	if no != nil {
		no.decision = d
	}
	return no
}

// understood turns what a reader says into a denial.
func understood(err error) *denial {
	var large *jsonval.TooLarge
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return &denial{code: bodyTooLarge, detail: err.Error()}
	}
	return &denial{code: policyDenied, reason: "request_not_understood", detail: "the request cannot be judged: " + err.Error()}
}

// hold reads a body into memory, at most limit bytes, within Limits.BodyTime and
// what all requests together may hold. The request has the same body afterwards,
// and whole says whether all of it is in memory.
func (x *session) hold(r *request, limit int64) ([]byte, *denial) {
	if !r.hasBody() {
		return nil, nil
	}
	tooLarge := &denial{code: bodyTooLarge, detail: "the body is larger than this endpoint's rules look at"}
	need := limit
	switch {
	case r.ContentLength > limit:
		return nil, tooLarge
	case r.whole: // and charged
		need = 0
	case r.ContentLength > 0:
		need = r.ContentLength
	}
	if no := x.charge(r, need); no != nil {
		return nil, no
	}
	if err := x.continues(r); err != nil {
		return nil, x.brokenOff(r, err)
	}
	r.wait(time.Now().Add(x.limits.BodyTime))
	body, err := io.ReadAll(io.LimitReader(counted{r.Body, x}, limit+1))
	r.wait(time.Time{})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &denial{code: headTimeout, reason: "body_timeout", detail: "the body took too long"}
	case err != nil:
		return nil, x.brokenOff(r, err)
	case int64(len(body)) > limit:
		r.Body = rest(body, r.Body) // it can still be sent, by whoever does not mind
		return nil, tooLarge
	}
	r.Body.Close()
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	r.whole = true
	return body, nil
}

// charge takes n more bytes of what all requests together may hold. They are
// given back when the request has ended.
func (x *session) charge(r *request, n int64) *denial {
	if x.held.Add(n) > x.limits.Held {
		x.held.Add(-n)
		return &denial{code: unavailable, reason: "too_many_bodies", detail: "too many bodies are held for inspection"}
	}
	r.held += n
	return nil
}

// release gives back what was charged.
func (x *session) release(r *request) {
	x.held.Add(-r.held)
	r.held, r.whole = 0, false
}

// sizeOf is about how many bytes it takes to keep what was found in a body, which
// is done as long as the request runs: a text of two bytes can be a parameter.
func sizeOf(q *policy.Request) (n int64) {
	const each = 64 // of a map's entry
	for _, c := range q.Calls {
		n += int64(len(c.Method) + len(c.Tool))
		for name, value := range c.Params {
			n += int64(len(name)+len(value)) + each
		}
	}
	for _, o := range q.Operations {
		n += int64(len(o.Name) + len(o.Persisted))
		for _, f := range o.Fields {
			n += int64(len(f)) + each
		}
	}
	return n
}

// continues tells a client that waits for it to send its body. HTTP/2 does it by
// itself.
func (x *session) continues(r *request) error {
	waits := r.Header.Get("Expect") != ""
	r.Header.Del("Expect")
	if !waits || r.h2 || r.minor == 0 {
		return nil
	}
	_, err := io.WriteString(x.wire, "HTTP/1.1 100 Continue\r\n\r\n")
	return err
}
