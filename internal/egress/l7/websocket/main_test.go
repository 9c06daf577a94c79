package websocket

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// result is what a relay came to.
type result struct {
	stats Stats
	err   error
}

// relayed puts a relay before an HTTP server and returns its address; every connection's result is sent.
func relayed(t *testing.T, ctx context.Context, origin http.Handler, o Options) (url string, results <-chan result) {
	t.Helper()
	up := httptest.NewServer(origin)
	t.Cleanup(up.Close)
	out := make(chan result, 8)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		offer, err := ReadOffer(r.Header)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		server, answer := upgrade(t, up.Listener.Addr().String(), r.URL.Path, offer)
		agreed, err := offer.Accept(answer)
		if err != nil {
			server.Close()
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
		io.WriteString(conn, head+lines(agreed.Header())+"\r\n")
		o.Deflate = agreed.Deflate
		stats, err := Relay(ctx, struct {
			io.Reader
			io.Writer
			io.Closer
		}{rw.Reader, conn, conn}, server, o)
		out <- result{stats, err}
	}))
	t.Cleanup(proxy.Close)
	return "ws" + strings.TrimPrefix(proxy.URL, "http"), out
}

type conn struct {
	io.Reader
	net.Conn
}

func (c conn) Read(b []byte) (int, error) { return c.Reader.Read(b) }

// upgrade makes the handshake with a server.
func upgrade(t *testing.T, addr, path string, offer Offer) (io.ReadWriteCloser, http.Header) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: "+addr+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+lines(offer.Header())+"\r\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("upgrade: %v %v", res, err)
		return c, nil
	}
	return conn{br, c}, res.Header
}

func lines(h http.Header) string {
	var b strings.Builder
	h.Write(&b)
	return b.String()
}

func allow(text []byte) ([]byte, error) { return text, nil }

// side is one end of a relay, driven frame by frame.
type side struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// pair starts a relay between two TCP connections and returns their other ends.
func pair(t *testing.T, ctx context.Context, o Options) (client, server side, done <-chan result) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ends := func() (net.Conn, side) {
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		a.SetDeadline(time.Now().Add(patience))
		return b, side{t, a, bufio.NewReader(a)}
	}
	in, client := ends()
	up, server := ends()
	out := make(chan result, 1)
	go func() {
		stats, err := Relay(ctx, in, up, o)
		out <- result{stats, err}
	}()
	return client, server, out
}

// send writes a frame; first is its first byte.
func (s side) send(first byte, masked bool, payload string) {
	s.t.Helper()
	h := header{fin: first&0x80 != 0, rsv1: first&0x40 != 0, op: first & 0x0f, masked: masked, mask: [4]byte{1, 2, 3, 4}, length: int64(len(payload))}
	b := h.append(nil)
	b[0] = first
	body := []byte(payload)
	if masked {
		mask(body, h.mask, 0)
	}
	if _, err := s.Write(append(b, body...)); err != nil {
		s.t.Fatal(err)
	}
}

// receive reads a frame, unmasked.
func (s side) receive(fromClient, deflate bool) (header, string) {
	s.t.Helper()
	h, err := readHeader(s.r, fromClient, deflate)
	if err != nil {
		s.t.Fatalf("readHeader = %v", err)
	}
	b := make([]byte, h.length)
	if _, err := io.ReadFull(s.r, b); err != nil {
		s.t.Fatal(err)
	}
	if h.masked {
		mask(b, h.mask, 0)
	}
	return h, string(b)
}

// wantClose reads frames up to a Close, which must have this code.
func (s side) wantClose(fromClient bool, code int) (reason string) {
	s.t.Helper()
	for {
		h, b := s.receive(fromClient, true)
		if h.op != opClose {
			continue
		}
		if len(b) < 2 || int(b[0])<<8|int(b[1]) != code {
			s.t.Fatalf("Close %q, want the code %d", b, code)
		}
		return b[2:]
	}
}

func wait(t *testing.T, done <-chan result) result {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(patience):
		t.Fatal("the relay does not end")
		return result{}
	}
}
