package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/internal/event"
)

// TestLimitsInside reaches each bound of a connection whose TLS ends here: the
// status, the end of the connection, and an event.
func TestLimitsInside(t *testing.T) {
	const start = "GET / HTTP/1.1\r\nHost: api.example.com\r\n"
	for why, c := range map[string]struct {
		text   string
		limits func(*Limits)
		status int
		code   code
	}{
		"large head":  {start + "A: " + strings.Repeat("x", 5000) + "\r\n\r\n", func(l *Limits) { l.RequestHead = 4096 }, 431, headTooLarge},
		"many fields": {start + strings.Repeat("A: b\r\n", maxFields) + "\r\n", func(*Limits) {}, 400, badRequestCode},
		"slow head":   {start, func(l *Limits) { l.HeadTime = 200 * time.Millisecond }, 408, headTimeout},
		"long target": {"GET /" + strings.Repeat("a", 17<<10) + " HTTP/1.1\r\nHost: api.example.com\r\n\r\n", func(*Limits) {}, 400, badRequestCode},
	} {
		t.Run(why, func(t *testing.T) {
			w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { c.limits(&o.Limits) })
			r := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
			resp, body := r.say(c.text).answer("GET")
			if resp.StatusCode != c.status || !strings.Contains(body, `"`+string(c.code)+`"`) {
				t.Errorf("%s %s, want %d %s", resp.Status, body, c.status, c.code)
			}
			r.ends()
			w.event(func(e event.Event) bool { return e.StatusCode == string(c.code) })
		})
	}
}

// TestStreamLimits are those of HTTP/2.
func TestStreamLimits(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Limits.RequestHead = 4096 })
	var got seen
	w.secureWeb(true, got.recording, "api.example.com:443")
	client := w.client(own, true)
	for size, status := range map[int]int{100: 200, 5000: 431} { // net/http's client does not send more than twice the bound
		req, _ := http.NewRequest("GET", "https://api.example.com/", nil)
		req.Header.Set("A", strings.Repeat("x", size))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%d bytes: %s, want %d", size, resp.Status, status)
		}
	}
	w.event(func(e event.Event) bool { return e.StatusCode == string(headTooLarge) })
	if n := len(got.all()); n != 1 {
		t.Errorf("the server saw %d requests, want 1", n)
	}
}

// TestAnswersAreBounded: what a server says before its answer, and the head of
// that, end in an answer of ours and an event with a reason of its own, at once
// and without being collected.
func TestAnswersAreBounded(t *testing.T) {
	for reason, serve := range map[string]http.HandlerFunc{
		"upstream_interim": func(rw http.ResponseWriter, r *http.Request) {
			for range 100_000 {
				if r.Context().Err() != nil {
					return
				}
				rw.WriteHeader(http.StatusEarlyHints)
			}
		},
		"upstream_head": func(rw http.ResponseWriter, _ *http.Request) {
			for i := range 20 { // 80 KiB
				rw.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 4<<10))
			}
		},
	} {
		t.Run(reason, func(t *testing.T) {
			versions(t, func(t *testing.T, h2 bool) {
				w, own := inspecting(t, policyOf(t, readOnlyPolicy))
				var asked, passed atomic.Int32
				w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
					if asked.Add(1); r.URL.Path == "/" {
						serve(rw, r)
					}
				}, "api.example.com:443")
				client := w.client(own, h2)
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { passed.Add(1); return nil }})
				req, _ := http.NewRequestWithContext(ctx, "GET", "https://api.example.com/", nil)
				before := heap()
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 502 || !strings.Contains(string(b), `"reason":"`+reason+`"`) || asked.Load() != 1 || passed.Load() > maxInterim {
					t.Errorf("%s %s after %d interim answers and %d attempts, want 502 %s", resp.Status, b, passed.Load(), asked.Load(), reason)
				}
				w.event(func(e event.Event) bool { return e.StatusCode == reason })
				if grown := heap() - before; grown > 4<<20 {
					t.Errorf("%d bytes more", grown)
				}
				if resp, err = client.Get("https://api.example.com/next"); err != nil || resp.StatusCode != 200 {
					t.Errorf("afterwards: %v %v", resp, err)
				} else {
					resp.Body.Close()
				}
			})
		})
	}
}

// TestTunnelsEnd when nothing moves for long, and when they are old, whatever
// moves.
func TestTunnelsEnd(t *testing.T) {
	for reason, limit := range map[string]func(*Limits){
		endIdle:     func(l *Limits) { l.Idle = 200 * time.Millisecond },
		endLifetime: func(l *Limits) { l.Lifetime = 200 * time.Millisecond },
	} {
		t.Run(reason, func(t *testing.T) {
			w := newWorld(t, rules{"a.example:443": {}}, func(o *Options) { limit(&o.Limits) })
			w.origin(echo, "a.example:443")
			c := w.connect("a.example:443")
			for err := error(nil); err == nil && reason == endLifetime; time.Sleep(time.Millisecond) {
				_, err = c.Write([]byte("x"))
			}
			io.Copy(io.Discard, c.br)
			w.event(func(e event.Event) bool { return e.StatusCode == reason })
		})
	}
}

// slowNames is a resolver that does not answer.
type slowNames struct{}

func (slowNames) Resolve(ctx context.Context, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSlowName: a name that is not answered in time is 504.
func TestSlowName(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Limits.Dial, o.Resolver = 100*time.Millisecond, slowNames{} })
	r, body := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com")).say("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET")
	if r.StatusCode != 504 || !strings.Contains(body, string(upstreamTimeout)) {
		t.Errorf("%s %s, want 504", r.Status, body)
	}
	w.event(func(e event.Event) bool { return e.StatusCode == "name_not_resolved" })
}

// TestUnreadBodiesAreBounded: a client that does not read stops the server, and
// nothing piles up between them.
func TestUnreadBodiesAreBounded(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, readOnlyPolicy))
		var sent atomic.Int64
		w.secureWeb(h2, func(rw http.ResponseWriter, _ *http.Request) {
			b := make([]byte, 64<<10)
			for {
				n, err := rw.Write(b)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}, "api.example.com:443")
		client := w.client(own, h2)
		before := heap()
		resp, err := client.Get("https://api.example.com/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for last := int64(-1); last != sent.Load(); time.Sleep(300 * time.Millisecond) {
			last = sent.Load() // until nothing moves
		}
		if grown := heap() - before; grown > 16<<20 { // the client's and the server's windows and buffers are among it
			t.Errorf("%d bytes more, after %d were sent", grown, sent.Load())
		}
	})
}

// TestInspectedConnectionsAreBounded: one too many is told so, and the others go
// on.
func TestInspectedConnectionsAreBounded(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Limits.Inspected = 1 })
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	get := "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
	first := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	first.say(get).answer("GET")
	second := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	if r, b := second.say(get).answer("GET"); r.StatusCode != 503 || !strings.Contains(b, "too_many_requests") {
		t.Errorf("%s %s, want 503", r.Status, b)
	}
	w.event(func(e event.Event) bool { return e.StatusCode == "too_many_requests" })
	if r, _ := first.say(get).answer("GET"); r.StatusCode != 200 {
		t.Errorf("the first one: %s", r.Status)
	}
}

// TestNoPlaceForTheNextRequest: a connection that was quiet has no place, and where
// there is none any more it is told so.
func TestNoPlaceForTheNextRequest(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Limits.Inspected = 1 })
	held, let := make(chan struct{}, 1), make(chan struct{})
	w.secureWeb(false, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			held <- struct{}{}
			select {
			case <-let:
			case <-r.Context().Done():
			}
		}
	}, "api.example.com:443")
	get := "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
	quiet := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	quiet.say(get).answer("GET")
	w.eventually("the place to be free", func() bool { return len(w.server.inspections) == 0 })
	busy := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	busy.say(strings.Replace(get, "/", "/long", 1))
	w.eventually("a request on its way", func() bool { return len(held) == 1 })
	if r, b := quiet.say(get).answer("GET"); r.StatusCode != 503 || !strings.Contains(b, "too_many_requests") {
		t.Errorf("%s %s, want 503", r.Status, b)
	}
	w.event(func(e event.Event) bool { return e.StatusCode == "too_many_requests" })
	close(let)
	if r, _ := busy.answer("GET"); r.StatusCode != 200 {
		t.Errorf("the other one: %s", r.Status)
	}
}

// TestStalledHandshake ends.
func TestStalledHandshake(t *testing.T) {
	w, _ := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) {
		o.Limits.HeadTime, o.Limits.Dial = 100*time.Millisecond, 100*time.Millisecond
	})
	c := w.connect("api.example.com:443")
	hello := recordedHello(t, "api.example.com")
	c.send(string(hello)) // and no more
	io.Copy(io.Discard, c.br)
	w.event(func(e event.Event) bool { return e.StatusCode == "client_tls" })
}

// recordedHello is a ClientHello.
func recordedHello(t *testing.T, name string) []byte {
	t.Helper()
	a, b := pair(t)
	defer a.Close()
	defer b.Close()
	go tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	buf := make([]byte, 16<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// TestQuietConnectionsAreClosed, and hold next to nothing until then.
func TestQuietConnectionsAreClosed(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Limits.KeepAlive = 200 * time.Millisecond })
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	c.say("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET")
	if _, err := c.br.ReadByte(); err != io.EOF {
		t.Errorf("%v, want the end", err)
	}
	w.kept(0)
}

// TestPoolIsBounded: the connection that is idle for longest makes room.
func TestPoolIsBounded(t *testing.T) {
	text := ""
	for i := range 4 {
		text += fmt.Sprintf("      - {host: h%d.example.com, port: 443, protocol: rest, access: read-only, enforcement: enforce}\n", i)
	}
	w, own := inspecting(t, policyOf(t, strings.TrimSuffix(text, "\n")), func(o *Options) { o.Limits.Pooled = 2 })
	var got seen
	for i := range 4 {
		w.secureWeb(i%2 == 1, got.recording, fmt.Sprintf("h%d.example.com:443", i))
	}
	client := w.client(own, true)
	for i := range 4 {
		resp, err := client.Get(fmt.Sprintf("https://h%d.example.com/", i))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		w.kept(min(i+1, 2))
	}
}

// TestIdleConnectionsAreCheap: after a request each costs what TLS keeps and a
// goroutine, and no buffer.
func TestIdleConnectionsAreCheap(t *testing.T) {
	if testing.Short() {
		t.Skip("makes many connections")
	}
	const n = 200
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	before := heap()
	var conns []*raw
	for range n {
		c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
		c.SetDeadline(time.Now().Add(time.Minute))
		c.say("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET")
		conns = append(conns, c)
	}
	time.Sleep(settle + 500*time.Millisecond) // after which buffers are given back
	each := (heap() - before) / n
	t.Logf("%d bytes for each idle connection, the client's side of it included", each)
	if each > 80<<10 {
		t.Errorf("%d bytes for each idle connection", each)
	}
	if r, _ := conns[0].say("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET"); r.StatusCode != 200 {
		t.Errorf("afterwards: %s", r.Status)
	}
}

func heap() int64 {
	var m runtime.MemStats
	for range 3 { // a sync.Pool lets go at the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
