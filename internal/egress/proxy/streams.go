package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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
// on the connection go on. A client that has left has said so itself, and that is
// no event.
func (x *session) refuseStream(w http.ResponseWriter, in intent, no *denial) {
	if no.reason == clientLeft {
		panic(http.ErrAbortHandler)
	}
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
