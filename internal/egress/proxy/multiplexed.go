package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// multiplexed is an HTTP/2 connection to a server.
type multiplexed struct {
	cc    *http.ClientConn
	key   poolKey
	addr  netip.Addr
	since time.Time
}

// Close ends the connection and every request on it.
func (m *multiplexed) Close() error { return m.cc.Close() }

// share makes an HTTP/2 connection of TLS with a server and puts it into the
// pool. It owns t. With reserve, one request is to be sent at once.
func (x *session) share(t *tls.Conn, k poolKey, reserve bool) (*multiplexed, error) {
	ctx, cancel := context.WithTimeout(context.WithValue(x.ctx, dialledKey{}, t), x.limits.Dial)
	defer cancel()
	cc, err := x.streams.back.NewClientConn(ctx, "https", net.JoinHostPort(k.host, "443"))
	if err != nil {
		t.Close()
		return nil, err
	}
	m := &multiplexed{cc: cc, key: k, addr: remote(under(t).TCPConn)}
	if reserve {
		if err := cc.Reserve(); err != nil {
			cc.Close()
			return nil, err
		}
	}
	x.pool.share(m)
	return m, nil
}

// multiplexedFor gives a request a connection on which it may be sent.
func (x *session) multiplexedFor(r *request, v *verdict) (*multiplexed, *denial) {
	if m := x.pool.reserve(poolKey{v.host, v.port, true, v.by}); m != nil {
		return m, nil
	}
	t, no := underOne(x, v, x.dialTLS, func() (no *denial) {
		*v, no = x.judge(r)
		return no
	})
	if no != nil {
		return nil, no
	}
	k := poolKey{v.host, v.port, true, v.by}
	if t.ConnectionState().NegotiatedProtocol != "h2" {
		t.Close()
		x.pool.forget(k)
		return nil, broken(v, errors.New("the server does not speak HTTP/2 any more"))
	}
	m, err := x.share(t, k, true)
	if err != nil {
		return nil, broken(v, err)
	}
	return m, nil
}

// streamUp sends a request and waits for its answer. The answers before it are
// passed on.
func (x *session) streamUp(w http.ResponseWriter, r *request, v *verdict) (*http.Response, *denial) {
	m, no := x.multiplexedFor(r, v)
	if no != nil {
		return nil, no
	}
	if no := x.arm(r, v); no != nil {
		m.cc.Release()
		return nil, no
	}
	before := &prelude{w: w}
	defer before.end()
	resp, err := m.cc.RoundTrip(r.outgoing(x, v, before))
	if err != nil && r.repeatable() && r.Context().Err() == nil && !timedOut(err) && !before.begun.Load() && !violated(err) {
		// The connection may have been closed while the request was on its way. One
		// that carries others is kept for them, unless it is known to have ended.
		if m.cc.InFlight() == 0 {
			m.Close()
		}
		if m, no = x.multiplexedFor(r, v); no != nil {
			return nil, no
		}
		resp, err = m.cc.RoundTrip(r.outgoing(x, v, before))
	}
	if err != nil {
		if before.n.Load() > maxInterim {
			err = errInterim // net/http has wrapped it in words of its own
		}
		switch no := x.unsent(r, v, err); {
		case no != nil:
			return nil, no
		case x.live.endedBy() == "" && r.Context().Err() != nil && !r.revoked():
			panic(http.ErrAbortHandler) // nobody waits for the answer
		}
		return nil, x.ended(broken(v, err))
	}
	if fieldBytes(resp.Header) > x.limits.RequestHead {
		resp.Body.Close()
		return nil, broken(v, errHeadTooLarge)
	}
	if no := x.scrub(resp, v); no != nil {
		return nil, no
	}
	if no := x.answered(r, resp, v, func() { resp.Body.Close() }); no != nil {
		return nil, no
	}
	x.requested(r, v, m.addr, resp.StatusCode)
	return resp, nil
}

// violated tells of a server that broke HTTP/2, such as with a head beyond all bounds:
// it has said something. net/http does not export that error.
func violated(err error) bool { return strings.HasPrefix(err.Error(), "connection error: ") }

// prelude is the answers before the answer to one request. A goroutine of net/http
// brings them, and it may be late: w is not to be touched by it once streamUp has
// returned.
type prelude struct {
	w     http.ResponseWriter
	begun atomic.Bool // the server has begun to answer
	n     atomic.Int32
	mu    sync.Mutex
	over  bool
}

func (i *prelude) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}

// pass passes one on.
func (i *prelude) pass(code int, h http.Header) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over {
		return
	}
	to := i.w.Header()
	for k, v := range h {
		to[k] = v
	}
	i.w.WriteHeader(code)
	clear(to)
}

// outgoing is the request as it goes to a server: only what was judged.
func (r *request) outgoing(x *session, v *verdict, before *prelude) *http.Request {
	if r.URL.Scheme == "" {
		r.URL = r.asURL()
	}
	out := &http.Request{
		Method: r.method, URL: r.URL, Host: r.authority(), ContentLength: r.ContentLength,
		Header: make(http.Header, len(r.Header)+1), Body: counted{ofClient{r.Body}, x}, Trailer: r.Trailer,
	}
	if r.ContentLength == 0 {
		out.Body = nil
	}
	not := exclude(r.Header)
	for k, v := range r.Header {
		if !not[k] {
			out.Header[k] = v
		}
	}
	if r.Header.Get("Te") == "trailers" {
		out.Header.Set("Te", "trailers") // gRPC servers want to see it
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // none, instead of net/http's own
	}
	return out.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotFirstResponseByte: func() { before.begun.Store(true) },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if before.n.Add(1) > maxInterim {
				return errInterim
			}
			if code == http.StatusContinue {
				return nil // net/http says it when the body is read
			}
			if no := x.scrub(&http.Response{StatusCode: code, Header: http.Header(h), Body: http.NoBody}, v); no != nil {
				return errors.New(no.detail)
			}
			before.pass(code, http.Header(h))
			return nil
		},
	}))
}

// counted shows the sweeper that a body moves.
type counted struct {
	io.ReadCloser
	x *session
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.x.live.moved.Add(int64(n))
	return n, err
}
