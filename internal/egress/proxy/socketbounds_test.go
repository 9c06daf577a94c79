package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	relay "sallyport/internal/egress/l7/websocket"
)

// TestMessagesAreBounded: a message that is too large, for who relays it, for rules
// about GraphQL or for a middleware, or for which there is no room among those of all,
// ends its websocket with the code for that, towards the server too, which gets none
// of it, and with the event of its end; what a rule or a middleware cannot see is a
// denial before. One just below passes.
func TestMessagesAreBounded(t *testing.T) {
	const most, read = 4 << 20, 64 << 10
	const subscribe = `{"id":"1","type":"subscribe","payload":{"query":"{a}"}}`
	denied := []string{"body_too_large Blocked"}
	for _, c := range []struct {
		path, more string
		room       int64 // for all messages
		sent       int   // a part of which is subscribe
		code       websocket.StatusCode
		told       []string // before the end
	}{
		{"/chat", "", messageBudget, most, 0, nil},
		{"/chat", "", messageBudget, 32 * most, websocket.StatusMessageTooBig, nil},
		{"/chat", "", most / 2, most, websocket.StatusTryAgainLater, nil},
		{"/graph", "", messageBudget, read, 0, nil},
		{"/graph", "", messageBudget, read + 1, websocket.StatusMessageTooBig, denied},
		{"/chat", redactor("config: {max_body_bytes: 65536}"), messageBudget, read, 0, nil},
		{"/chat", redactor("config: {max_body_bytes: 65536}"), messageBudget, read + 1, websocket.StatusMessageTooBig, denied},
	} {
		t.Run(fmt.Sprint(c.path, " ", c.more != "", " ", c.sent, " of ", c.room), func(t *testing.T) {
			w, own := inspecting(t, policyWith(t, socketPolicy, c.more))
			w.server.messages = relay.NewBudget(c.room)
			got := make(chan string, 2)
			w.secureWeb(false, func(rw http.ResponseWriter, r *http.Request) {
				s, err := websocket.Accept(rw, r, &websocket.AcceptOptions{Subprotocols: []string{"graphql-transport-ws"}})
				if err != nil {
					return
				}
				defer s.CloseNow()
				s.SetReadLimit(-1)
				for err == nil {
					var b []byte
					if _, b, err = s.Read(r.Context()); err == nil {
						got <- fmt.Sprint(len(b))
					}
				}
				got <- fmt.Sprint("closed with ", int(websocket.CloseStatus(err)))
			}, "api.example.com:443")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, _, err := websocket.Dial(ctx, "wss://api.example.com"+c.path, &websocket.DialOptions{HTTPClient: w.client(own, false), Subprotocols: []string{"graphql-transport-ws"}})
			if err != nil {
				t.Fatal(err)
			}
			defer s.CloseNow()
			piece := bytes.Repeat([]byte(" "), 64<<10)
			before := allocated()
			to, err := s.Writer(ctx, websocket.MessageText)
			if err == nil {
				_, err = io.WriteString(to, subscribe)
			}
			for n := len(subscribe); n < c.sent && err == nil; n += len(piece) {
				_, err = to.Write(piece[:min(len(piece), c.sent-n)])
			}
			if c.told != nil {
				to.Close() // it is seen as a whole
			}
			if c.code == 0 {
				if to.Close(); receive(t, got) != fmt.Sprint(c.sent) {
					t.Error("a message just below the bound did not arrive")
				}
				return
			}
			_, _, err = s.Read(ctx)
			if code := websocket.CloseStatus(err); code != c.code {
				t.Errorf("%v, want %d", err, c.code)
			}
			if used := allocated() - before; used > 24*most {
				t.Errorf("%d bytes allocated, more than 24 times the bound", used)
			}
			if b := receive(t, got); b != "closed with 1001" {
				t.Errorf("the server: %s", b)
			}
			w.eventually("one event", func() bool {
				return slices.Equal(w.told(), append(c.told, fmt.Sprintf("websocket_%d Allowed", c.code)))
			})
		})
	}
}

// TestHandshakeIsBounded: a client that lists too much is told so and closed, and no
// server hears of it; a server that does is broken. As much as may be passes.
func TestHandshakeIsBounded(t *testing.T) {
	list := func(n int) string { return strings.Join(slices.Repeat([]string{"mux"}, n), ", ") }
	for _, c := range []struct {
		why, offers, chooses string
		status               int
		want                 []string // events
	}{
		{"offer", list(32), "", 101, nil},
		{"offer of too much", list(33), "", 400, []string{"bad_request Blocked"}},
		{"answer", "", list(33), 502, []string{"upstream_invalid Allowed"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			w, own := inspecting(t, policyOf(t, socketPolicy))
			var got seen
			w.secureRaw("api.example.com:443", func(s net.Conn, br *bufio.Reader) {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				got.add("%s", r.Method)
				accept := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
				fmt.Fprintf(s, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n", base64.StdEncoding.EncodeToString(accept[:]))
				if c.chooses != "" {
					fmt.Fprintf(s, "Sec-WebSocket-Extensions: %s\r\n", c.chooses)
				}
				io.WriteString(s, "\r\n")
				io.Copy(io.Discard, br)
			})
			conn := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
			conn.say("GET /chat HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: " + c.offers + "\r\n\r\n")
			r, err := http.ReadResponse(conn.br, nil)
			if err != nil || r.StatusCode != c.status {
				t.Fatalf("%v, %v, want %d", r, err, c.status)
			}
			if c.status != 101 {
				io.Copy(io.Discard, r.Body)
				conn.ends()
			}
			if told, heard := w.told(), len(got.all()) > 0; !slices.Equal(told, c.want) || heard != (c.status != 400) {
				t.Errorf("events %q, want %q; the server heard of it: %v", told, c.want, heard)
			}
		})
	}
}

// TestEventsOfAStreamAreBounded: an event that a middleware cannot be shown, or for which there is no room among the
// bodies of all, ends the stream and is one event of ours; where the middleware fails open it passes. One just below
// is seen. Nothing is held afterwards.
func TestEventsOfAStreamAreBounded(t *testing.T) {
	const most = 64 << 10
	for _, c := range []struct {
		size int
		fail string
		held int64
		want []string // events
		ends bool
	}{
		{most, "fail_closed", 1 << 20, nil, false},
		{most + 1, "fail_closed", 1 << 20, []string{"body_too_large Blocked"}, true},
		{100 * most, "fail_closed", 1 << 20, []string{"body_too_large Blocked"}, true},
		{100 * most, "fail_open", 1 << 20, nil, false},
		{most, "fail_closed", most / 2, []string{"too_many_bodies Blocked"}, true},
	} {
		t.Run(fmt.Sprint(c.size, " ", c.fail, " ", c.held), func(t *testing.T) {
			versions(t, func(t *testing.T, h2 bool) {
				more := redactor(fmt.Sprintf("on_error: %s, config: {apply: [responses], max_body_bytes: %d}", c.fail, most))
				w, own := inspecting(t, policyWith(t, fullHost, more), func(o *Options) { o.Limits.Held = c.held })
				pad := strings.Repeat("x", c.size-len("data: "+secretText+"\n\n"))
				w.secureWeb(h2, func(rw http.ResponseWriter, _ *http.Request) {
					rw.Header().Set("Content-Type", "text/event-stream")
					io.WriteString(rw, "data: first\n\n"+"data: "+secretText+pad+"\n\n"+"data: last\n\n")
				}, "api.example.com:443")
				resp, err := w.client(own, h2).Get("https://api.example.com/")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				middle := "data: id [redacted:aws-access-key]." + pad + "\n\n"
				if c.fail == "fail_open" {
					middle = "data: " + secretText + pad + "\n\n"
				}
				want := "data: first\n\n"
				if !c.ends {
					want += middle + "data: last\n\n"
				}
				if string(b) != want || (err != nil) != c.ends {
					t.Errorf("%d bytes %.40q, %v; want %d, and a cut stream: %v", len(b), b, err, len(want), c.ends)
				}
				w.eventually("the events", func() bool { return slices.Equal(w.told(), c.want) })
				w.eventually("nothing is held", func() bool { return w.server.held.Load() == 0 })
			})
		})
	}
}

// TestTunnelsHoldLittle: what moves through a tunnel is not kept in it, where there is
// a pipe for it and where all of them are lent; there are never more of them.
func TestTunnelsHoldLittle(t *testing.T) {
	const size = 64 << 20
	for _, lent := range []int{0, maxPipes} {
		t.Run(fmt.Sprint(lent, " lent"), func(t *testing.T) {
			w := newWorld(t, rules{"a.example:443": {}})
			w.origin(func(c *net.TCPConn) {
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprint(c, n)
			}, "a.example:443")
			pipes := &w.server.pipes
			var borrowed []pipe
			for range lent {
				v, ok := pipes.get()
				if !ok {
					t.Fatal("no pipe is to be had")
				}
				borrowed = append(borrowed, v)
			}
			c := w.connect("a.example:443")
			piece := bytes.Repeat([]byte("x"), 1<<20)
			before := allocated()
			for range size / len(piece) {
				if _, err := c.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			c.CloseWrite()
			if got := c.all(); got != fmt.Sprint(size) {
				t.Errorf("the server got %s bytes, want %d", got, size)
			}
			if used := allocated() - before; used > size/2 { // little, but where a race detector lets pools forget
				t.Errorf("%d bytes allocated while %d went through", used, size)
			}
			if v, ok := pipes.get(); ok == (lent == maxPipes) {
				t.Errorf("one more pipe is to be had: %v, with %d of %d lent", ok, lent, maxPipes)
			} else if ok {
				pipes.put(v)
			}
			for _, v := range borrowed {
				pipes.put(v)
			}
			w.eventually("the tunnel is gone", func() bool { return len(w.server.conns.all()) == 0 })
			pipes.mu.Lock()
			defer pipes.mu.Unlock()
			if pipes.made != len(pipes.free) {
				t.Errorf("%d pipes were made, %d have been given back", pipes.made, len(pipes.free))
			}
		})
	}
}

// TestWhatServersSpeakIsBounded: what is remembered of servers is forgotten before it
// is too much.
func TestWhatServersSpeakIsBounded(t *testing.T) {
	var p pool
	p.init(Limits{})
	for i := range 3 * maxSpoken {
		k := poolKey{host: fmt.Sprint(i)}
		p.learn(k, true)
		if h2, known := p.speaks(k); !h2 || !known || len(p.h2) > maxSpoken {
			t.Fatalf("after %d servers %d are remembered, the last one: %v", i+1, len(p.h2), known)
		}
	}
}

// TestHellosAreBounded: a ClientHello that is too long, has no end, or takes too long
// is refused in TLS's words, is one event, and reaches no server; a real one does.
func TestHellosAreBounded(t *testing.T) {
	real := string(namedHello(t, "a.example"))
	for _, c := range []struct {
		why, say string
		hasty    bool
		want     []string // events
	}{
		{"real", real, false, nil},
		{"too long by its length", "\x16\x03\x01\x3f\xff\x01\x00\x40\x01", false, []string{"bad_request Blocked"}},
		{"without an end", strings.Repeat("\x16\x03\x01\x00\x04\x01\x00\x3f\xff"+strings.Repeat("\x16\x03\x01\x00\x01x", 4000), 3), false, []string{"bad_request Blocked"}},
		{"slow", real[:20], true, []string{"bad_request Blocked"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			w := newWorld(t, rules{"a.example:443": {}}, func(o *Options) {
				if c.hasty {
					o.Limits.HeadTime = 300 * time.Millisecond
				}
			})
			w.origin(func(s *net.TCPConn) {
				b := make([]byte, len(real))
				io.ReadFull(s, b)
				io.WriteString(s, map[bool]string{true: "the same"}[string(b) == real])
			}, "a.example:443")
			before := allocated()
			conn := w.serve(func(x *session) step { return x.captured("a.example", netip.MustParseAddrPort("198.19.0.1:443")) }, c.say)
			want := string(tlsAlert)
			if c.want == nil {
				want = "the same"
			}
			b := make([]byte, len(want))
			if _, err := io.ReadFull(conn.br, b); err != nil || string(b) != want {
				t.Errorf("%q, %v, want %q", b, err, want)
			}
			if used := allocated() - before; used > 1<<20 {
				t.Errorf("%d bytes allocated while %d were sent", used, len(c.say))
			}
			conn.Close()
			w.eventually("it has ended", func() bool { return len(w.server.conns.all()) == 0 })
			if told := w.told(); !slices.Equal(told, c.want) || c.want != nil && len(w.dialled) > 0 {
				t.Errorf("events %q, want %q; dialled %v", told, c.want, w.dialled)
			}
		})
	}
}
