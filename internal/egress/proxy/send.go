package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"sallyport/internal/policy"
)

// arm gives a request that was allowed its secrets, last of all.
func (x *session) arm(r *request, v *verdict) *denial {
	if x.secrets == nil {
		return nil
	}
	if limit := heldForSecrets(r, v.Endpoint); limit > 0 {
		if _, no := x.hold(r, limit); no != nil {
			no.decision = v.Decision
			return no
		}
	}
	r.URL = r.asURL()
	if err := x.secrets.Apply(x.ctx, v.Endpoint, v.host, v.port, r.Request); err != nil {
		return refusedSecret(v, err)
	}
	r.sent = r.URL.RequestURI()
	return nil
}

// heldForSecrets is how much of a body must be here before it is sent: all that
// Credentials looks at as a whole, to change it or to sign it. It is 0 for a
// body that may pass as it comes.
func heldForSecrets(r *request, e *policy.Endpoint) int64 {
	switch {
	case e == nil || r.whole:
		return 0
	case e.L7.RequestBodyCredentialRewrite:
		return 256 << 10
	case e.L7.CredentialSigning == "sigv4:body", e.L7.CredentialSigning == "sigv4" && r.Header.Get("X-Amz-Content-Sha256") == "":
		return 10 << 20
	}
	return 0
}

// asURL is the canonical target as a URL.
func (r *request) asURL() *url.URL {
	u := &url.URL{Scheme: "http", Host: r.authority(), RawPath: r.target.Path, RawQuery: r.target.Raw}
	if r.tls {
		u.Scheme = "https"
	}
	if r.target.Path == "*" {
		u.RawPath, u.Opaque = "", "*"
		return u
	}
	u.Path, _ = url.PathUnescape(r.target.Path) // canonical: it has no incomplete escape
	return u
}

// withStatus is how Credentials and Local say what kind of error it is.
type withStatus interface {
	error
	Status() int
}

// refusedSecret is a request or an answer that a credential must not go with.
func refusedSecret(v *verdict, err error) *denial {
	no := &denial{code: credentialRefused, detail: err.Error(), cause: errors.Unwrap(err), decision: v.Decision}
	if r, ok := errors.AsType[interface {
		error
		Reason() string
	}](err); ok {
		no.reason = r.Reason()
	}
	if s, ok := errors.AsType[withStatus](err); ok && s.Status() >= 500 {
		no.code, no.failed = unavailable, true
	}
	return no
}

// unsent is why a request was given up while it was sent: a placeholder in its
// body, or that the body ended too early. It is nil if that was not the reason.
func (x *session) unsent(r *request, v *verdict, err error) *denial {
	if s, ok := errors.AsType[withStatus](err); ok {
		return refusedSecret(v, s)
	}
	if u, ok := errors.AsType[unreadable](err); ok {
		no := x.brokenOff(r, u.error)
		no.decision = v.Decision
		return no
	}
	return nil
}

// clientLeft is the reason of a request whose client has left before it was whole.
const clientLeft = "client_left"

// brokenOff is why a body ended too early. Only one that breaks the rules of HTTP is
// the client's bad request: that nothing more comes is none.
func (x *session) brokenOff(r *request, err error) *denial {
	no := &denial{code: badRequestCode, detail: "the body could not be read", cause: err}
	if left(err) || r.Context().Err() != nil { // as where a client of HTTP/2 resets its stream
		no.failed, no.reason, no.detail = true, clientLeft, "the client has left in the middle of the body"
	}
	return x.ended(no)
}

// ended says of what failed because the proxy has ended the connection why it has.
func (x *session) ended(no *denial) *denial {
	if why := x.live.endedBy(); why != "" && no.failed {
		no.code, no.reason, no.detail = unavailable, why, "the proxy has ended the connection"
	}
	return no
}

// left tells whether an error of a client's body is the end of its connection.
// net/http does not export two of them.
func left(err error) bool {
	for _, end := range []error{io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return err.Error() == "client disconnected" || err.Error() == "http: unexpected EOF reading trailer"
}

// unreadable is an error of a client's body.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

// ofClient tells what is wrong with a client's body from what is wrong with the
// server that it is sent to. That nothing is read any more is neither.
type ofClient struct{ io.ReadCloser }

func (b ofClient) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !timedOut(err) {
		err = unreadable{err}
	}
	return n, err
}

// scrub takes secrets out of an answer.
func (x *session) scrub(resp *http.Response, v *verdict) *denial {
	if x.secrets == nil {
		return nil
	}
	if err := x.secrets.Scrub(v.Endpoint, v.host, v.port, resp); err != nil {
		resp.Body.Close()
		return refusedSecret(v, err)
	}
	return nil
}

// repeatable tells whether a request may be sent again when it is not known
// whether the server has seen it, RFC 9110 section 9.2.2.
func (r *request) repeatable() bool {
	return !r.hasBody() && !r.upgrade && (r.method == "GET" || r.method == "HEAD" || r.method == "OPTIONS")
}

// personal tells whether a server has tied who the client is to the connection:
// such a connection is nobody else's.
func personal(h http.Header) bool {
	for _, v := range h["Www-Authenticate"] {
		scheme, _, _ := strings.Cut(v, " ")
		if strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate") {
			return true
		}
	}
	return false
}

// send sends a request; the channel then holds nil or what went wrong. A body
// that is not here yet is sent while the answer is awaited.
func (x *session) send(r *request, up *upstream, rd *bufio.Reader) (sent chan error) {
	sent = make(chan error, 1)
	err := r.writeHead(up.bw)
	switch {
	case err != nil:
		sent <- err
	case !r.hasBody():
		sent <- up.bw.Flush()
	case r.ContentLength > 0 && r.ContentLength <= int64(rd.Buffered()):
		sent <- x.sendBody(r, up)
	default:
		if err := up.bw.Flush(); err != nil {
			sent <- err
			break
		}
		go func() {
			err := errors.New("bug: request body")
			defer func() { sent <- err }()
			defer x.survive()
			err = x.sendBody(r, up)
		}()
	}
	return sent
}

// sendBody streams the request's body in a framing of its own: chunk extensions
// and trailers end here.
func (x *session) sendBody(r *request, up *upstream) error {
	err := x.copyBody(chunkWriter{w: up.bw, to: up.wire, on: r.chunked()}, ofClient{r.Body})
	if err != nil {
		up.abort() // the server must not take it for the whole body
	}
	return err
}

// switched goes on with a websocket. The answer's head has been read and is
// still to be written.
func (x *session) switched(r *request, up *upstream, resp *http.Response, rd *bufio.Reader) (after step, no *denial) {
	if up.verdict.read {
		return x.judgedTalk(r, up, resp, rd)
	}
	head := append(upgraded(resp), buffered(up.br, 0)...)
	early := buffered(rd, 0)
	return func() step {
		if _, err := x.wire.Write(head); err != nil {
			up.Close()
			return nil
		}
		return x.tunnel(up.verdict, up.conn, early, false)
	}, nil
}

// upgraded is the head of an answer to an upgrade.
func upgraded(resp *http.Response) []byte {
	var b bytes.Buffer
	statusLine(&b, resp.StatusCode)
	resp.Header.WriteSubset(&b, exclude(resp.Header))
	b.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	return b.Bytes()
}

// answerLocally gets an answer from this process. The agent's own credentials
// end there, so there are no secrets to be put in. A body that is too long is
// refused there too, in words of its own.
func (x *session) answerLocally(r *request, v *verdict, way LocalHost) (*http.Response, *denial) {
	_, no := x.hold(r, way.MaxBody())
	if no != nil && no.code != bodyTooLarge {
		no.decision = v.Decision
		return nil, no
	}
	r.URL = r.asURL()
	asked := r.Request
	if no != nil {
		asked = r.WithContext(r.Context())
		asked.Body, asked.ContentLength = http.NoBody, way.MaxBody()+1
	}
	resp, err := way.RoundTrip(asked)
	if err != nil {
		return nil, &denial{code: upstreamUnreachable, failed: true, detail: err.Error(), decision: v.Decision}
	}
	if no := x.answered(r, resp, v, func() { resp.Body.Close() }); no != nil {
		return nil, no
	}
	if reason, refused := strings.CutPrefix(resp.Header.Get("X-Sallyport-Policy"), "error="); refused {
		no := &denial{code: policyDenied, reason: reason, detail: v.host + ": " + resp.Status, decision: v.Decision, failed: resp.StatusCode >= 500}
		resp.Header.Set("X-Sallyport-Policy", (&denial{code: code(reason)}).tag(x.record(r.intent, no)))
		return resp, nil
	}
	x.requested(r, v, netip.Addr{}, resp.StatusCode)
	return resp, nil
}
