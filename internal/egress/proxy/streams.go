package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"sallyport/internal/egress/address"
	"sallyport/internal/event"
)

// streams is HTTP/2 on both sides, which net/http speaks.
type streams struct {
	front  *tls.Config // of every client
	limits Limits
	server atomic.Pointer[http.Server] // of the clients that came under the policy in force
	back   *http.Transport
}

// window is how much of a body HTTP/2 takes before somebody has read it: of one
// stream, and of a client's connection. Four of them are that of a server's
// connection, which many clients share.
const window = 512 << 10

func (s *streams) init(l Limits) {
	s.front, s.limits = &tls.Config{GetConfigForClient: frontFor, MinVersion: tls.VersionTLS12}, l
	s.server.Store(s.newServer())
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	s.back = &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, ok := ctx.Value(dialledKey{}).(*tls.Conn)
			if !ok {
				return nil, errors.New("bug: proxy: the transport dials by itself")
			}
			return c, nil
		},
		DisableCompression: true, ResponseHeaderTimeout: l.Answer, MaxResponseHeaderBytes: 4 * int64(l.RequestHead), // far beyond it net/http gives up on the connection; before that the proxy refuses the answer
		Protocols: &protocols,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: time.Minute, PingTimeout: 15 * time.Second,
			MaxReceiveBufferPerConnection: 4 * window, MaxReceiveBufferPerStream: window,
		},
	}
}

// newServer is a server that is handed its connections one by one.
func (s *streams) newServer() *http.Server {
	l := s.limits
	server := &http.Server{
		IdleTimeout: l.KeepAlive, ReadHeaderTimeout: l.HeadTime,
		MaxHeaderBytes: 2 * l.RequestHead, // beyond it net/http answers 431; up to it the proxy does
		Protocols:      new(http.Protocols),
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: l.Streams, MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window},
		ErrorLog:       quiet(),
	}
	server.Protocols.SetHTTP2(true)
	server.Serve(nobody{}) // fills TLSNextProto, and ends because nobody comes
	return server
}

// retire lets clients that came under an old policy know that they should
// connect anew: GOAWAY, after which what runs goes on (RFC 9113 section 6.8).
func (s *streams) retire() {
	old := s.server.Swap(s.newServer())
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // do not wait for them
	old.Shutdown(ctx)
}

// close expects that the connections of clients are closed.
func (s *streams) close() { s.back.CloseIdleConnections() }

// nobody is a listener to which no client comes.
type nobody struct{}

func (nobody) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (nobody) Close() error              { return nil }
func (nobody) Addr() net.Addr            { return &net.TCPAddr{} }

// serveStreams serves a client that speaks HTTP/2 until its connection ends.
func (x *session) serveStreams(t *tls.Conn, to *target, v *verdict) {
	select {
	case x.inspections <- struct{}{}:
		defer func() { <-x.inspections }()
	default:
		x.refuse(v.intent, &denial{code: unavailable, reason: "too_many_requests", detail: fmt.Sprintf("%d connections carry HTTP, which is the limit", cap(x.inspections))}, formReset)
		return
	}
	x.to = to
	server := x.streams.server.Load()
	server.TLSNextProto["h2"](server, t, http.HandlerFunc(x.serveStream))
	x.handlers.Lock() // waits for them
	x.over = true
	x.handlers.Unlock()
}

type dialledKey struct{}

// serveStream serves one request.
func (x *session) serveStream(w http.ResponseWriter, req *http.Request) {
	x.handlers.RLock()
	defer x.handlers.RUnlock()
	if x.over {
		panic(http.ErrAbortHandler)
	}
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p != http.ErrAbortHandler {
			x.panicked(p, debug.Stack())
		}
		panic(http.ErrAbortHandler)
	}()
	x.stream(w, req)
}

func (x *session) stream(w http.ResponseWriter, req *http.Request) {
	r, err := x.to.stream(req)
	if err != nil {
		x.refuseStream(w, r.intent, &denial{code: badRequestCode, detail: err.Error()})
		return
	}
	if n := headBytes(req); n > x.limits.RequestHead || len(req.Header) > maxFields {
		x.refuseStream(w, r.intent, &denial{code: headTooLarge, detail: errHeadTooLarge.Error()})
		return
	}
	r.wait = func(t time.Time) { http.NewResponseController(w).SetReadDeadline(t) }
	defer x.release(r)
	v, no := x.admit(r, *x.to)
	if no != nil {
		x.refuseStream(w, r.intent, no)
		return
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	r.Request = req.WithContext(ctx)
	asked, no := x.noted(r, &v, func() {
		cancel(errRevoked)
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(lingerTime)) // for a client that does not read
	})
	defer x.live.answered(asked)
	var resp *http.Response
	switch way := x.local[v.host]; {
	case no != nil:
	case way != nil:
		resp, no = x.answerLocally(r, &v, way)
	default:
		resp, no = x.streamUp(w, r, &v)
	}
	if no != nil && r.revoked() {
		no = revoked(&v)
	}
	if no != nil {
		x.refuseStream(w, r.intent, no)
		return
	}
	if err := x.relayStream(w, resp); err != nil {
		if r.revoked() {
			x.record(r.intent, revoked(&v))
			if saysStatus(w, resp) {
				return
			}
		}
		panic(http.ErrAbortHandler) // a cut answer must not look whole
	}
}

var errRevoked = errors.New("the policy has changed")

func (r *request) revoked() bool { return context.Cause(r.Context()) == errRevoked }

// saysStatus ends the answer of a gRPC server, of which a part has been passed
// on, with the status that is gRPC's for a refusal (PERMISSION_DENIED, 7 of
// grpc/status). It is false for other answers.
func saysStatus(w http.ResponseWriter, resp *http.Response) bool {
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/grpc") {
		return false
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "7")
	w.Header().Set(http.TrailerPrefix+"Grpc-Message", "sallyport: the policy has changed")
	return true
}

// headBytes is about what a head takes in HTTP/1.
func headBytes(req *http.Request) int {
	return len(req.Method) + len(req.RequestURI) + len(req.Host) + fieldBytes(req.Header)
}

func fieldBytes(h http.Header) (n int) {
	for k, vv := range h {
		for _, v := range vv {
			n += len(k) + len(v) + 4
		}
	}
	return n
}

// stream reads a request that came by HTTP/2. What makes a message there is the
// work of net/http; what it means is judged as for HTTP/1.
func (t *target) stream(req *http.Request) (*request, error) {
	r := &request{Request: req, intent: intent{
		host: t.host, port: t.port, addr: t.addr, tls: true, h2: true, method: req.Method, path: req.RequestURI, agent: req.UserAgent(),
	}}
	if err := r.canonical(); err != nil {
		return r, err
	}
	if r.path == "*" && r.method != "OPTIONS" {
		return r, bad("URI %.80q: expected a path", r.path)
	}
	var err error
	if r.host, r.port, err = address.ParseAuthority(req.Host, t.port); err != nil {
		return r, err
	}
	for _, h := range req.Header["Host"] {
		if host, port, err := address.ParseAuthority(h, t.port); err != nil || host != r.host || port != r.port {
			return r, bad("Host %.80q is not :authority", h)
		}
	}
	return r, nil
}

// refuseStream makes the event of a denial and answers with it. Other requests
// on the connection go on.
func (x *session) refuseStream(w http.ResponseWriter, in intent, no *denial) {
	id := x.record(in, no)
	kind, body := x.body(in, no, id)
	h := w.Header()
	h.Set("X-Sallyport-Policy", no.tag(id))
	h.Set("Content-Type", kind)
	h["Date"] = nil
	w.WriteHeader(outcomes[no.code].status)
	if in.method != "HEAD" {
		w.Write(body)
	}
}

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
	resp, err := m.cc.RoundTrip(r.outgoing(x, v, w))
	if err != nil && r.repeatable() && r.Context().Err() == nil && !timedOut(err) && !tooManyInterim(err) && !largeHead(err) {
		// The connection may have been closed while the request was on its way. One
		// that carries others is kept for them, unless it is known to have ended.
		if m.cc.InFlight() == 0 {
			m.Close()
		}
		if m, no = x.multiplexedFor(r, v); no != nil {
			return nil, no
		}
		resp, err = m.cc.RoundTrip(r.outgoing(x, v, w))
	}
	if err != nil {
		if no := unsent(v, err); no != nil {
			return nil, no
		}
		if r.Context().Err() != nil && !r.revoked() {
			panic(http.ErrAbortHandler) // nobody waits for the answer
		}
		return nil, broken(v, err)
	}
	if fieldBytes(resp.Header) > x.limits.RequestHead {
		resp.Body.Close()
		return nil, broken(v, errHeadTooLarge)
	}
	if no := x.scrub(resp, v); no != nil {
		return nil, no
	}
	if no := x.answered(r, resp, v); no != nil {
		return nil, no
	}
	x.requested(r, v, m.addr, resp.StatusCode)
	return resp, nil
}

// outgoing is the request as it goes to a server: only what was judged.
func (r *request) outgoing(x *session, v *verdict, w http.ResponseWriter) *http.Request {
	if r.URL.Scheme == "" {
		r.URL = r.asURL()
	}
	out := &http.Request{
		Method: r.method, URL: r.URL, Host: r.authority(), ContentLength: r.ContentLength,
		Header: make(http.Header, len(r.Header)+1), Body: counted{r.Body, x}, Trailer: r.Trailer,
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
	interim := 0
	return out.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if interim++; interim > maxInterim {
				return errInterim
			}
			if code == http.StatusContinue {
				return nil // net/http says it when the body is read
			}
			if no := x.scrub(&http.Response{StatusCode: code, Header: http.Header(h), Body: http.NoBody}, v); no != nil {
				return errors.New(no.detail)
			}
			return interimStream(w, code, http.Header(h))
		},
	}))
}

func interimStream(w http.ResponseWriter, code int, h http.Header) error {
	to := w.Header()
	for k, v := range h {
		to[k] = v
	}
	w.WriteHeader(code)
	clear(to)
	return nil
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

// relayStream passes an answer on, each part as soon as it comes, its trailers
// last.
func (x *session) relayStream(w http.ResponseWriter, resp *http.Response) error {
	defer resp.Body.Close()
	x.live.moved.Add(1)
	h := w.Header()
	h["Date"], h["Content-Type"] = nil, nil // net/http adds none of its own
	not := exclude(resp.Header)
	for k, v := range resp.Header {
		if !not[k] || k == "Content-Length" {
			h[k] = v
		}
	}
	for k := range resp.Trailer {
		h.Add("Trailer", k)
	}
	w.WriteHeader(resp.StatusCode)
	if resp.ContentLength != 0 {
		http.NewResponseController(w).Flush() // the head does not wait for the body; without one it ends the stream
	}
	if err := x.copyStream(w, resp.Body); err != nil {
		return err
	}
	for k, v := range resp.Trailer {
		h[http.TrailerPrefix+k] = v
	}
	return nil
}

func (x *session) copyStream(w http.ResponseWriter, body io.Reader) error {
	flusher := http.NewResponseController(w)
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for {
		n, err := body.Read(buf[:])
		x.live.moved.Add(int64(n))
		if n > 0 {
			if _, e := w.Write(buf[:n]); e != nil {
				return e
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e := flusher.Flush(); e != nil {
			return e
		}
	}
}

func (x *session) panicked(p any, stack []byte) {
	x.emit(event.Finding(event.Found{
		Kind: "proxy_panic", Title: "the proxy gave up on a connection", Severity: event.High,
		Detail: fmt.Sprintf("bug: proxy: %v\n%s", p, stack), Remedy: "report this with its text", Who: &x.who,
	}))
}
