package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// upstream is an HTTP/1 connection to a server. Whoever has it is its only user.
type upstream struct {
	conn    *net.TCPConn
	asked   *unhurried // conn, as wire reads it
	wire    net.Conn   // asked, or TLS on it
	head    *headLimit
	br      *bufio.Reader
	bw      *bufio.Writer
	key     poolKey
	verdict verdict
	spent   bool // it carries no further request
	used    bool // it has carried one
	since   time.Time
}

// Close ends the connection.
func (u *upstream) Close() error { return u.conn.Close() }

// abort ends it so that the server cannot take what it got for the whole.
func (u *upstream) abort() {
	u.conn.SetLinger(0)
	u.conn.Close()
}

// headLimit bounds how much is read while a head is awaited.
type headLimit struct {
	r     io.Reader
	left  int
	first *bufio.Writer // what is to be sent before anything is waited for; nil: nothing
}

const noLimit = int(^uint(0) >> 1)

func (h *headLimit) Read(b []byte) (int, error) {
	if h.left <= 0 {
		return 0, errHeadTooLarge
	}
	if h.first != nil {
		h.first.Flush() // its error comes again with the next write
	}
	n, err := h.r.Read(b[:min(len(b), h.left)])
	if h.left != noLimit {
		h.left -= n
	}
	return n, err
}

// upstreamBuffer holds a whole TLS record's worth of most messages.
const upstreamBuffer = 8 << 10

func newUpstream(c *unhurried, wire net.Conn, k poolKey, v *verdict) *upstream {
	up := &upstream{conn: c.TCPConn, asked: c, wire: wire, head: &headLimit{r: wire, left: noLimit}, bw: bufio.NewWriterSize(wire, upstreamBuffer), key: k, verdict: *v}
	up.br = bufio.NewReaderSize(up.head, upstreamBuffer)
	return up
}

// upstreamFor gives a request that was judged a connection to its server.
func (x *session) upstreamFor(r *request, v *verdict, fresh bool) (*upstream, *denial) {
	return underOne(x, v, func(v *verdict) (*upstream, *denial) { return x.obtain(v, r.tls, fresh) }, func() (no *denial) {
		*v, no = x.judge(r)
		return no
	})
}

// obtain takes a connection from the pool, or makes one.
func (x *session) obtain(v *verdict, secure, fresh bool) (*upstream, *denial) {
	k := poolKey{v.host, v.port, secure, v.by}
	for !fresh {
		up := x.pool.take(k)
		switch {
		case up == nil:
			fresh = true
		case !up.idle():
			up.Close()
		case !x.live.attach(up.conn):
			return nil, ending(v)
		default:
			x.live.query.Store(v.query)
			up.verdict, up.used = *v, true
			return up, nil
		}
	}
	c, no := x.connect(v)
	if no != nil {
		return nil, no
	}
	if !secure {
		u := newUnhurried(c)
		return newUpstream(u, u, k, v), nil
	}
	t, no := x.secure(v, c, false)
	if no != nil {
		return nil, no
	}
	return newUpstream(under(t), t, k, v), nil
}

// giveBack ends a request's use of a connection.
func (x *session) giveBack(up *upstream) {
	x.live.detach()
	if up.spent {
		up.Close()
		return
	}
	x.pool.put(up)
}

// secure makes TLS on a connection to a server; with h2 it may speak HTTP/2. It
// owns c until it has succeeded.
func (x *session) secure(v *verdict, c *net.TCPConn, h2 bool) (*tls.Conn, *denial) {
	cfg, err := x.inspector.Client(v.host, h2)
	if err != nil {
		c.Close()
		return nil, &denial{code: unavailable, failed: true, cause: err, decision: v.Decision, detail: "servers cannot be verified"}
	}
	ctx, cancel := context.WithTimeout(x.ctx, x.limits.Dial)
	defer cancel()
	t := tls.Client(newUnhurried(c), cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, untrusted(v, err)
	}
	return t, nil
}

// untrusted is a server with which there is no TLS.
func untrusted(v *verdict, err error) *denial {
	no := &denial{code: upstreamInvalid, reason: "upstream_tls", failed: true, cause: err, decision: v.Decision, detail: "no TLS with " + v.host}
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		no.code, no.reason = upstreamCertificate, ""
		no.detail = "the certificate of " + v.host + " is not valid: " + why(certificate.Err)
	case timedOut(err):
		no.code, no.reason = upstreamTimeout, ""
		no.detail = "TLS with " + v.host + " took too long"
	}
	return no
}

// why says in a few words what is wrong with a certificate.
func why(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &unknown):
		return "signed by an unknown authority"
	case errors.As(err, &name):
		return "it is for another name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "expired, or not valid yet"
	}
	return "it was not accepted"
}

// revoked is a request that was allowed and is not any more.
func revoked(v *verdict) *denial {
	return &denial{code: policyDenied, reason: endPolicy, decision: v.Decision, detail: "the policy has changed, and what the old one allowed is ended"}
}

func ending(v *verdict) *denial {
	return &denial{code: unavailable, detail: "the sandbox is ending", decision: v.Decision}
}

// idle tells whether a kept connection is still open and has nothing to say.
func (u *upstream) idle() bool {
	if u.spent || u.br.Buffered() > 0 {
		return false
	}
	u.asked.now = true
	_, err := u.br.Peek(1) // TLS, too, may hold what the server sent unasked
	u.asked.now = false
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// maxInterim bounds the 1xx answers to one request.
const maxInterim = 16

// answerTo reads the answer to a request and passes interim ones on. Where an
// answer is here already, no deadline is set for what is not waited for.
func (x *session) answerTo(r *request, up *upstream, sent chan error) (*http.Response, *denial) {
	for n := 0; ; n++ {
		if no := x.begins(up, sent); no != nil {
			return nil, no
		}
		if here, _ := up.br.Peek(up.br.Buffered()); !bytes.Contains(here, endOfHead) {
			up.conn.SetReadDeadline(time.Now().Add(x.limits.HeadTime))
		}
		up.head.left = x.limits.RequestHead
		resp, err := http.ReadResponse(up.br, r.Request)
		up.head.left = noLimit
		if err != nil {
			return nil, broken(&up.verdict, err)
		}
		x.live.moved.Add(1)
		interim := resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols
		switch {
		case resp.StatusCode == http.StatusSwitchingProtocols && !(r.upgrade && strings.EqualFold(resp.Header.Get("Upgrade"), "websocket")):
			return nil, broken(&up.verdict, errors.New("101 that was not asked for"))
		case !interim:
			if resp.Body != http.NoBody && (resp.ContentLength < 0 || resp.ContentLength > int64(up.br.Buffered())) || resp.StatusCode == http.StatusSwitchingProtocols {
				up.conn.SetReadDeadline(time.Time{})
			}
			if resp.Body != http.NoBody {
				resp.Body = &answerBody{ReadCloser: resp.Body, up: up}
			}
			return resp, nil
		case n == maxInterim:
			return nil, broken(&up.verdict, errInterim)
		case r.minor == 0:
			continue // HTTP/1.0 does not know them
		}
		if no := x.scrub(resp, &up.verdict); no != nil {
			return nil, no
		}
		if err := x.interim(resp); err != nil {
			return nil, broken(&up.verdict, err)
		}
	}
}

// answerBody is the body of an answer. Closed before its end it ends the
// connection first: net/http would read the rest, which may have no end.
type answerBody struct {
	io.ReadCloser
	up    *upstream
	whole bool
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.whole = b.whole || err == io.EOF
	return n, err
}

func (b *answerBody) Close() error {
	if !b.whole {
		b.up.spent = true
		b.up.Close()
	}
	return b.ReadCloser.Close()
}

var errInterim = errors.New("too many interim answers")

// begins waits for the first byte of an answer. The time for it begins anew as
// long as the request is still being sent.
func (x *session) begins(up *upstream, sent chan error) *denial {
	for {
		up.conn.SetReadDeadline(time.Now().Add(x.limits.Answer))
		_, err := up.br.Peek(1)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || len(sent) > 0 {
			return unanswered(up, err)
		}
	}
}

// unanswered is a server that has not begun to answer.
func unanswered(up *upstream, err error) *denial {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &denial{code: upstreamTimeout, failed: true, cause: err, decision: up.verdict.Decision, detail: up.verdict.host + " did not answer in time"}
	}
	no := broken(&up.verdict, err)
	no.stale = up.used && !errors.Is(err, errHeadTooLarge)
	return no
}

func broken(v *verdict, err error) *denial {
	no := &denial{code: upstreamInvalid, failed: true, cause: err, decision: v.Decision, detail: "the answer of " + v.host + " could not be read"}
	switch {
	case errors.Is(err, errInterim):
		no.reason, no.detail = "upstream_interim", "the answer of "+v.host+" has too many interim answers before it"
	case errors.Is(err, errHeadTooLarge):
		no.reason, no.detail = "upstream_head", "the head of the answer of "+v.host+" is too large"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		no.detail = v.host + " closed the connection without an answer"
	case timedOut(err):
		no.code, no.detail = upstreamTimeout, "the answer of "+v.host+" took too long"
	}
	return no
}
