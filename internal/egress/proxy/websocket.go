package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"sallyport/internal/egress/l7/graphql"
	"sallyport/internal/egress/l7/websocket"
	"sallyport/internal/egress/middleware"
	"sallyport/internal/event"
	"sallyport/internal/policy"
)

// offer reads the websocket handshake of a request that is to be upgraded, and
// leaves of it what is understood.
func (r *request) offer() error {
	o, err := websocket.ReadOffer(r.Header)
	if err != nil {
		return bad("%v", err)
	}
	for k := range r.Header {
		if strings.HasPrefix(k, "Sec-Websocket-") {
			delete(r.Header, k)
		}
	}
	for k, v := range o.Header() {
		r.Header[k] = v
	}
	r.asks = &o
	return nil
}

// talk is a websocket whose messages are judged.
type talk struct {
	*session
	r       *request
	v       verdict
	where   event.Where // the server
	grammar string      // subprotocol of GraphQL, if rules are about operations
	said    bool        // a text message has passed; of judge's goroutine
}

// judgedTalk goes on with a websocket whose messages are judged. The answer's
// head has been read and is still to be written.
func (x *session) judgedTalk(r *request, up *upstream, resp *http.Response, rd *bufio.Reader) (after step, no *denial) {
	agreed, err := r.asks.Accept(resp.Header)
	if err != nil {
		return nil, broken(&up.verdict, err)
	}
	t := &talk{session: x, r: r, v: up.verdict, where: event.Where{Host: up.verdict.host, Port: up.verdict.port, Addr: remote(up.conn)}}
	if e := up.verdict.Endpoint; e != nil && e.ReadsOperations() {
		t.grammar = agreed.Protocol
		if !graphql.Subprotocol(t.grammar) {
			return nil, &denial{code: policyDenied, reason: "subprotocol_not_read", decision: up.verdict.Decision,
				detail: fmt.Sprintf("rules about GraphQL need a subprotocol that is read, and the server chose %.40q", agreed.Protocol)}
		}
	}
	for k := range resp.Header {
		if strings.HasPrefix(k, "Sec-Websocket-") {
			delete(resp.Header, k)
		}
	}
	for k, v := range agreed.Header() {
		resp.Header[k] = v
	}
	head := upgraded(resp)
	client := halfRead(x, bytes.NewReader(buffered(rd, 0)), x.wire)
	server := halfRead(x, bytes.NewReader(buffered(up.br, 0)), up.wire)
	return func() step {
		if _, err := x.wire.Write(head); err != nil {
			up.Close()
			return nil
		}
		t.relay(client, server, agreed.Deflate)
		return nil
	}, nil
}

func (t *talk) relay(client, server io.ReadWriteCloser, deflate bool) {
	ctx, cancel := context.WithCancelCause(t.ctx)
	defer cancel(nil)
	end := func() {
		cancel(&websocket.CloseError{Code: websocket.Policy, Reason: "the policy has changed, and what the old one allowed is ended"})
	}
	binary := t.binary()
	asked := &asking{q: *t.v.query, r: t.r.about, end: end, as: func(e *policy.Endpoint) bool {
		return e != nil && e.ReadsOperations() == (t.grammar != "") && (!binary || takesBinary(e))
	}}
	t.live.ask(asked)
	defer t.live.answered(asked)
	if by := t.decider.Load(); by != t.v.by && !t.allows(*by, asked) {
		end() // it changed while the connection was upgraded
	}
	stats, err := websocket.Relay(ctx, client, server, websocket.Options{
		Deflate: deflate, Binary: binary, Judge: t.judge, Answer: t.answers(), Budget: t.messages,
	})
	ended := t.v.event()
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &closed):
		ended.Reason, ended.Detail = fmt.Sprintf("websocket_%d", closed.Code), closed.Reason
	case t.live.endedBy() != "":
		ended.Reason = t.live.endedBy()
	}
	t.emit(event.Ended(t.who, t.where, ended, stats.Server.Bytes, stats.Client.Bytes, t.now().Sub(t.live.started)))
}

// binary tells whether binary messages of the client pass: they cannot be read,
// and no placeholder could be found in them.
func (t *talk) binary() bool {
	return takesBinary(t.v.Endpoint) && t.v.Middleware.Limit(t.ctx, middleware.Text) == 0
}

func takesBinary(e *policy.Endpoint) bool {
	return e == nil || e.Protocol == policy.Raw || e.Access == "full" && !e.L7.WebSocketCredentialRewrite
}

// request is a text message as rules see it.
func (t *talk) request() policy.Request {
	return policy.Request{Method: policy.MethodText, Path: t.r.target.Path, Query: t.r.target.Query}
}

// judge decides about one text message, by the policy that is in force now.
func (t *talk) judge(text []byte) ([]byte, error) {
	v := t.v
	v.by = t.decider.Load()
	q, err := t.allow(&v, text)
	if err != nil {
		return nil, err
	}
	changed, err := t.middle(&v, middleware.Message{Hook: middleware.Text, Body: text})
	if err == nil && !bytes.Equal(changed, text) {
		q, err = t.allow(&v, changed) // what is sent is what was judged
	}
	if err != nil {
		return nil, err
	}
	if t.secrets != nil {
		if changed, err = t.secrets.Message(t.ctx, v.Endpoint, v.host, v.port, t.r.asURL(), true, changed); err != nil {
			return nil, t.deny(q, refusedSecret(&v, err), v.Decision)
		}
	}
	t.passed(&v, q)
	return changed, nil
}

// passed tells of each message with operations and of the first other one that a rule
// was asked about, and of each that only audit lets pass.
func (t *talk) passed(v *verdict, q policy.Request) {
	first := !t.said
	t.said = true
	if t.events == nil || !t.judges(v, q) || !v.Audited && (!t.allowed || len(q.Operations) == 0 && !first) {
		return
	}
	t.emit(event.Request(t.intent(q).http(0), t.who, t.where, v.event()))
}

// judges says whether rules are asked about a message: not where no rule reads them,
// nor, of GraphQL, about one that runs nothing.
func (t *talk) judges(v *verdict, q policy.Request) bool {
	return v.Endpoint != nil && v.Endpoint.Protocol != policy.Raw && (t.grammar == "" || len(q.Operations) > 0)
}

// allow asks the rules about a text message, and returns what they were asked.
func (t *talk) allow(v *verdict, text []byte) (q policy.Request, err error) {
	q = t.request()
	if t.grammar != "" {
		if q.Operations, err = graphql.ReadMessage(t.grammar, text, graphql.Options{MaxBody: v.Endpoint.L7.GraphQLMaxBody}); err != nil {
			return q, t.deny(q, understood(err), v.Decision)
		}
	}
	if !t.judges(v, q) {
		return q, nil
	}
	if d, no := t.rule(v, q); no != nil {
		return q, t.deny(q, no, d)
	}
	return q, nil
}

// answers is what happens to messages of the server; nil if nothing does.
func (t *talk) answers() func(text bool, message []byte) ([]byte, error) {
	probe := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(nil))}
	whole := probe.Body
	if err := t.scrub(probe, &t.v); err == nil && probe.Body == whole && t.v.Middleware.Limit(t.ctx, middleware.Answer) == 0 {
		return nil
	}
	return t.answer
}

// answer takes out of a message of the server the secrets that it was given, and
// then what middlewares take out.
func (t *talk) answer(text bool, message []byte) ([]byte, error) {
	as := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(message)), ContentLength: int64(len(message))}
	if no := t.scrub(as, &t.v); no != nil {
		return nil, t.deny(t.request(), no, t.v.Decision)
	}
	scrubbed, err := io.ReadAll(as.Body)
	if err != nil {
		return nil, err
	}
	return t.middle(&t.v, middleware.Message{Hook: middleware.Answer, Binary: !text, Body: scrubbed})
}

func (t *talk) intent(q policy.Request) intent {
	in := t.r.intent
	in.method, in.operations = q.Method, told(q)
	return in
}

// deny makes the event and gives the words with which the connection ends.
func (t *talk) deny(q policy.Request, no *denial, d Decision) error {
	no.decision = d
	id := t.record(t.intent(q), no)
	code := websocket.Policy
	if no.code == bodyTooLarge {
		code = websocket.TooBig
	}
	reason := no.detail
	if id != "" {
		reason = id + ": " + reason
	}
	return &websocket.CloseError{Code: code, Reason: reason}
}

// halfRead is one side of an upgraded connection, with what was read of it
// before.
func halfRead(x *session, early *bytes.Reader, c io.ReadWriteCloser) io.ReadWriteCloser {
	return &struct {
		io.Reader
		io.WriteCloser
	}{counted{io.NopCloser(prefixed{early, c}), x}, c}
}

// messageBudget is how much of websocket messages that are not complete is held.
const messageBudget = 64 << 20
