package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/event"
)

// upstream is the server of the last request, kept while the next one is for
// the same host and port and is allowed by the same policy.
type upstream struct {
	conn    *net.TCPConn
	head    *headLimit
	br      *bufio.Reader
	bw      *bufio.Writer
	verdict verdict
	spent   bool // the server closes it
}

// headLimit bounds how much is read while a head is awaited.
type headLimit struct {
	r    io.Reader
	left int
}

const noLimit = int(^uint(0) >> 1)

func (h *headLimit) Read(b []byte) (int, error) {
	if h.left <= 0 {
		return 0, errHeadTooLarge
	}
	n, err := h.r.Read(b[:min(len(b), h.left)])
	if h.left != noLimit {
		h.left -= n
	}
	return n, err
}

// plain serves HTTP requests one after the other; each is decided anew. early
// was read from the client already. What it returns is to be done after its
// buffers are given back.
func (x *session) plain(early []byte, to target) (next func()) {
	select {
	case x.requests <- struct{}{}:
		defer func() { <-x.requests }()
	default:
		x.refuse(intent{host: to.host, port: to.port, addr: to.addr}, &denial{
			code: unavailable, reason: "too_many_requests", detail: fmt.Sprintf("%d connections carry plain HTTP, which is the limit", cap(x.requests)),
		}, formHTTP)
		return nil
	}
	br := bufio.NewReaderSize(prefixed{bytes.NewReader(early), x.client}, x.limits.RequestHead+1)
	var up *upstream
	defer func() {
		if up != nil {
			up.conn.Close()
		}
	}()
	for first := true; ; first = false {
		b, ok := x.nextHead(br, first)
		if !ok {
			return nil
		}
		if !to.captured && bytes.HasPrefix(b, []byte("CONNECT ")) {
			if len(b) > x.limits.ConnectHead {
				x.headFailed(errHeadTooLarge, len(b))
				return nil
			}
			return x.connectHead(b, br)
		}
		r, err := to.read(b, br)
		if err != nil {
			x.refuse(r.intent, &denial{code: badRequestCode, detail: err.Error()}, formHTTP)
			return nil
		}
		var no *denial
		if up, no = x.upstreamFor(r, to, up); no != nil {
			x.refuse(r.intent, no, formHTTP)
			return nil
		}
		keep, after := x.exchange(r, up, br)
		if after != nil {
			up = nil // it lives on
		}
		if !keep || after != nil {
			return after
		}
	}
}

// nextHead waits for the next request; it is false if there is none.
func (x *session) nextHead(br *bufio.Reader, first bool) ([]byte, bool) {
	if !first {
		x.client.SetReadDeadline(time.Now().Add(x.limits.KeepAlive))
		if _, err := br.Peek(1); err != nil {
			return nil, false
		}
		x.client.SetReadDeadline(time.Now().Add(x.limits.HeadTime))
	}
	b, err := peekHead(br, x.limits.RequestHead)
	if err != nil {
		x.headFailed(err, br.Buffered())
		return nil, false
	}
	return b, true
}

// upstreamFor decides about one request and gives it a connection: old, if it
// may be used again, or a new one, after which old is closed.
func (x *session) upstreamFor(r *request, to target, old *upstream) (*upstream, *denial) {
	if to.host != "" && r.host != to.host {
		return old, &denial{code: nameMismatch, detail: fmt.Sprintf("Host is %s on a connection to %s", r.host, to.host)}
	}
	v, no := x.decide(r.intent)
	if no != nil {
		return old, no
	}
	if old != nil {
		was := old.verdict
		if was.host == v.host && was.port == v.port && was.by == v.by && old.idle() {
			old.verdict = v
			return old, nil
		}
		old.conn.Close()
	}
	c, no := x.reach(&v)
	if no != nil {
		return nil, no
	}
	up := &upstream{conn: c, head: &headLimit{c, noLimit}, bw: bufio.NewWriterSize(c, 4<<10), verdict: v}
	up.br = bufio.NewReaderSize(up.head, 4<<10)
	return up, nil
}

// idle tells whether a kept connection is still open and has nothing to say.
func (u *upstream) idle() bool {
	if u.spent || u.br.Buffered() > 0 {
		return false
	}
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return err == nil && quiet
}

// exchange sends one request and relays its answer. keep says whether the
// client's connection can carry another; after, if not nil, goes on with an
// upgrade.
func (x *session) exchange(r *request, up *upstream, br *bufio.Reader) (keep bool, after func()) {
	x.client.SetReadDeadline(time.Time{})
	sent := x.send(r, up, br)
	// Whatever happens, the sender is gone before its buffers are.
	cut := func() {
		x.client.SetReadDeadline(time.Unix(1, 0))
		up.conn.Close()
		<-sent
	}
	resp, no := x.answerTo(r, up)
	if no != nil {
		cut()
		x.refuse(r.intent, no, formHTTP)
		return false, nil
	}
	x.requested(r, up, resp.StatusCode)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		<-sent
		return false, x.switched(up, resp, br)
	}
	whole := false
	select {
	case err := <-sent:
		sent <- err
		whole = err == nil
	default: // the server answers before it has read all: the client must stop
	}
	keep = whole && r.keep
	if err := x.relay(r, resp, keep); err != nil {
		x.client.SetLinger(0) // a cut answer must not look whole
		keep = false
	}
	up.spent = resp.Close
	if !keep {
		cut()
	}
	return keep, nil
}

// send sends a request; the channel then holds nil or what went wrong. A body
// that is not here yet is sent while the answer is awaited.
func (x *session) send(r *request, up *upstream, br *bufio.Reader) (sent chan error) {
	sent = make(chan error, 1)
	err := r.writeHead(up.bw)
	if err == nil {
		err = up.bw.Flush()
	}
	switch {
	case err != nil || !r.hasBody():
		sent <- err
	case r.ContentLength > 0 && r.ContentLength <= int64(br.Buffered()):
		sent <- x.sendBody(r, up)
	default:
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
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	w := chunkWriter{w: up.bw, on: r.chunked()}
	for {
		n, err := r.Body.Read(buf[:])
		x.live.moved.Add(int64(n))
		if e := w.write(buf[:n]); e != nil {
			return e
		}
		if errors.Is(err, io.EOF) {
			return w.end()
		}
		if err != nil {
			up.conn.SetLinger(0)
			up.conn.Close() // the server must not take it for the whole body
			return err
		}
	}
}

// maxInterim bounds the 1xx answers to one request.
const maxInterim = 16

// answerTo reads the answer to a request and passes interim ones on.
func (x *session) answerTo(r *request, up *upstream) (*http.Response, *denial) {
	for range maxInterim {
		up.head.left = x.limits.RequestHead
		resp, err := http.ReadResponse(up.br, r.Request)
		up.head.left = noLimit
		if err != nil {
			return nil, broken(up, err)
		}
		x.live.moved.Add(1)
		interim := resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols
		switch {
		case resp.StatusCode == http.StatusSwitchingProtocols && !(r.upgrade && strings.EqualFold(resp.Header.Get("Upgrade"), "websocket")):
			return nil, broken(up, errors.New("101 that was not asked for"))
		case !interim:
			return resp, nil
		case r.minor == 0:
			continue // HTTP/1.0 does not know them
		}
		if err := x.interim(resp); err != nil {
			return nil, broken(up, err)
		}
	}
	return nil, broken(up, fmt.Errorf("more than %d interim answers", maxInterim))
}

func (x *session) interim(resp *http.Response) error {
	var b bytes.Buffer
	statusLine(&b, resp.StatusCode)
	resp.Header.WriteSubset(&b, exclude(resp.Header))
	b.WriteString("\r\n")
	_, err := x.client.Write(b.Bytes())
	return err
}

func broken(up *upstream, err error) *denial {
	no := &denial{code: upstreamInvalid, failed: true, cause: err, decision: up.verdict.Decision, detail: "the answer of " + up.verdict.host + " could not be read"}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		no.detail = up.verdict.host + " closed the connection without an answer"
	}
	return no
}

func statusLine(b *bytes.Buffer, code int) {
	fmt.Fprintf(b, "HTTP/1.1 %03d %s\r\n", code, http.StatusText(code))
}

// relay passes an answer on, each part as soon as it comes.
func (x *session) relay(r *request, resp *http.Response, keep bool) error {
	defer resp.Body.Close()
	var b bytes.Buffer
	statusLine(&b, resp.StatusCode)
	resp.Header.WriteSubset(&b, exclude(resp.Header))
	bodiless := r.method == "HEAD" || resp.StatusCode == 204 || resp.StatusCode == 304
	chunked := !bodiless && resp.ContentLength < 0 && r.minor == 1
	switch {
	case chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case resp.ContentLength >= 0 && resp.StatusCode != 204 && resp.StatusCode != 304:
		b.WriteString("Content-Length: " + strconv.FormatInt(resp.ContentLength, 10) + "\r\n")
	}
	if !keep {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	if _, err := x.client.Write(b.Bytes()); err != nil || bodiless {
		return err
	}
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	bw := bufio.NewWriterSize(x.client, 512)
	w := chunkWriter{w: bw, on: chunked}
	for {
		n, err := resp.Body.Read(buf[:])
		x.live.moved.Add(int64(n))
		if e := w.write(buf[:n]); e != nil {
			return e
		}
		if errors.Is(err, io.EOF) {
			return w.end()
		}
		if err != nil {
			return err
		}
	}
}

// chunkWriter writes a body, in chunks if on, and flushes each part.
type chunkWriter struct {
	w  *bufio.Writer
	on bool
}

func (c chunkWriter) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if c.on {
		c.w.WriteString(strconv.FormatInt(int64(len(b)), 16) + "\r\n")
	}
	c.w.Write(b)
	if c.on {
		c.w.WriteString("\r\n")
	}
	return c.w.Flush()
}

func (c chunkWriter) end() error {
	if c.on {
		c.w.WriteString("0\r\n\r\n")
	}
	return c.w.Flush()
}

// switched goes on with a websocket as with any tunnel. The answer's head has
// been read and is still to be written.
func (x *session) switched(up *upstream, resp *http.Response, br *bufio.Reader) (after func()) {
	var b bytes.Buffer
	statusLine(&b, resp.StatusCode)
	resp.Header.WriteSubset(&b, exclude(resp.Header))
	b.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	b.Write(buffered(up.br, 0))
	early := buffered(br, 0)
	return func() {
		if _, err := x.client.Write(b.Bytes()); err != nil {
			up.conn.Close()
			return
		}
		x.tunnel(up.verdict, up.conn, early, false)
	}
}

// requested makes the event of a request that was answered.
func (x *session) requested(r *request, up *upstream, status int) {
	if x.events == nil {
		return
	}
	where := event.Where{Host: r.host, Port: r.port, Addr: remote(up.conn)}
	x.emit(event.Request(r.http(status), x.who, where, up.verdict.event()))
}
