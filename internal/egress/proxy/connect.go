package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"sallyport/internal/egress/address"
)

// smallHead is the buffer of a connection that has not said yet what it wants.
// It holds nearly every CONNECT; whoever needs more takes one of Limits.Requests.
const smallHead = 2 << 10

var smallReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, smallHead) }}

// Why a head could not be read, beside what is wrong with it.
var (
	errHeadTooLarge = errors.New("head is too large")
	errHeadTime     = errors.New("head took too long")
)

// proxied serves a client that knows of the proxy.
func (x *session) proxied() step {
	small := smallReaders.Get().(*bufio.Reader)
	small.Reset(x.client)
	next := x.firstHead(small)
	small.Reset(nil)
	smallReaders.Put(small)
	return next
}

// firstHead reads what the client wants. It returns what is to be done when the
// buffer is given back: a tunnel lives long and needs none.
func (x *session) firstHead(small *bufio.Reader) (next step) {
	x.client.SetReadDeadline(time.Now().Add(x.limits.HeadTime))
	b, err := peekHead(small, smallHead-1, nil)
	switch {
	case err == nil && bytes.HasPrefix(b, []byte("CONNECT ")):
		return x.connectHead(b, small)
	case err == nil || errors.Is(err, errHeadTooLarge):
		return x.plain(buffered(small, 0), target{})
	}
	x.headFailed(err, small.Buffered())
	return nil
}

// peekHead waits until br holds a whole head and gives it without taking it.
// waits, if not nil, is called before it waits.
func peekHead(br *bufio.Reader, limit int, waits func()) ([]byte, error) {
	for from := 0; ; {
		b, _ := br.Peek(br.Buffered())
		end, err := headEnd(b, from)
		if end > 0 || err != nil {
			return b[:end], err
		}
		if len(b) >= limit {
			return nil, errHeadTooLarge
		}
		if waits != nil {
			waits()
			waits = nil
		}
		from = len(b)
		if _, err := br.Peek(len(b) + 1); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errHeadTime
			}
			return nil, err
		}
	}
}

// headEnd finds the end of a head in b, of which the first bytes were looked at
// before. It refuses a bare LF at once: such a head may never end.
func headEnd(b []byte, from int) (int, error) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, nil
		}
		i += from
		switch {
		case i == 0 || b[i-1] != '\r':
			return 0, bad("line ends in LF without CR")
		case i == 1:
			return 0, bad("empty line before the request")
		case i >= 3 && b[i-2] == '\n':
			return i + 1, nil
		}
		from = i + 1
	}
}

// headFailed ends a connection whose head could not be read. A client that said
// nothing hears nothing.
func (x *session) headFailed(err error, said int) {
	var malformed badRequest
	no := &denial{code: badRequestCode, detail: err.Error()}
	switch {
	case errors.As(err, &malformed):
	case errors.Is(err, errHeadTime) && said > 0:
		no.code = headTimeout
	case errors.Is(err, errHeadTooLarge):
		no.code = headTooLarge
	case errors.Is(err, io.EOF) && said > 0:
		no.detail = "the request ended early"
	default:
		return
	}
	x.refuse(intent{}, no, formHTTP)
}

// connectHead serves a CONNECT whose head is b, the first bytes in br.
func (x *session) connectHead(b []byte, br *bufio.Reader) (next step) {
	in := intent{method: "CONNECT"}
	h, err := parseHead(b)
	if err == nil {
		in, err = connectIntent(h)
	}
	if err != nil {
		x.refuse(in, &denial{code: badRequestCode, detail: err.Error()}, formHTTP)
		return nil
	}
	early := buffered(br, len(b)) // sent without waiting for the answer
	return func() step { return x.connectTo(in, early) }
}

func connectIntent(h head) (intent, error) {
	in := intent{method: "CONNECT", minor: h.minor}
	var err error
	if in.host, in.port, err = address.ParseAuthority(string(h.target), 0); err != nil {
		return in, err
	}
	if h.framed || h.expect || h.upgrade != nil {
		return in, bad("CONNECT with a body, Expect or Upgrade")
	}
	if h.hosts == 0 {
		return in, nil
	}
	if host, port, err := address.ParseAuthority(string(h.host), in.port); err != nil || host != in.host || port != in.port {
		return in, bad("Host %.80q is not the target of CONNECT", h.host)
	}
	return in, nil
}

var established = []byte("HTTP/1.1 200 Connection established\r\n\r\n")

// connectTo opens a tunnel.
func (x *session) connectTo(in intent, early []byte) step {
	v, no := x.decide(in)
	if no != nil {
		x.refuse(in, no, formHTTP)
		return nil
	}
	if v.read {
		return x.connectToRead(v, early)
	}
	up, no := x.reach(&v)
	if no != nil {
		x.refuse(in, no, formHTTP)
		return nil
	}
	if _, err := x.client.Write(established); err != nil {
		up.Close()
		return nil
	}
	return x.tunnel(v, up, early, x.checksName(v))
}

// connectToRead opens a tunnel that ends here. The server is connected to when
// there is a request for it.
func (x *session) connectToRead(v verdict, early []byte) step {
	if x.inspector == nil {
		x.refuse(v.intent, x.unread(v), formHTTP)
		return nil
	}
	if _, err := x.client.Write(established); err != nil {
		return nil
	}
	first := x.sniff(x.limits.HeadTime, early)
	return func() step { return x.read(v, first) }
}
