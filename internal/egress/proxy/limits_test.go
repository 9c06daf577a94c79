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
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/egress/inspect"
	"sallyport/internal/event"
)

// TestAnswersAreBounded: what a server says before its answer, and the head of
// that, end in an answer of ours and one event with a reason of its own, at once
// and without being collected. What is just below passes.
func TestAnswersAreBounded(t *testing.T) {
	for reason, serve := range map[string]func(http.ResponseWriter, *http.Request, bool){
		"upstream_interim": func(rw http.ResponseWriter, r *http.Request, over bool) {
			for range map[bool]int{true: 100_000, false: maxInterim}[over] {
				if r.Context().Err() != nil {
					return
				}
				rw.WriteHeader(http.StatusEarlyHints)
			}
		},
		"upstream_head": func(rw http.ResponseWriter, _ *http.Request, over bool) {
			for i := range map[bool]int{true: 20, false: 7}[over] { // 80 KiB; 28 KiB
				rw.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 4<<10))
			}
		},
	} {
		t.Run(reason, func(t *testing.T) {
			versions(t, func(t *testing.T, h2 bool) {
				w, own := inspecting(t, policyOf(t, readOnlyPolicy))
				var asked, passed atomic.Int32
				w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
					if asked.Add(1); r.URL.Path != "/next" {
						serve(rw, r, r.URL.Path == "/over")
					}
				}, "api.example.com:443")
				client := w.client(own, h2)
				get := func(path string) (status int, body string) {
					asked.Store(0)
					passed.Store(0)
					ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { passed.Add(1); return nil }})
					req, _ := http.NewRequestWithContext(ctx, "GET", "https://api.example.com"+path, nil)
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					b, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Error(err)
					}
					return resp.StatusCode, string(b)
				}
				if status, b := get("/under"); status != 200 || asked.Load() != 1 || reason == "upstream_interim" && passed.Load() != maxInterim {
					t.Errorf("below the bound: %d %s after %d interim answers", status, b, passed.Load())
				}
				before := heap()
				if status, b := get("/over"); status != 502 || !strings.Contains(b, `"reason":"`+reason+`"`) || asked.Load() != 1 || passed.Load() > maxInterim {
					t.Errorf("%d %s after %d interim answers and %d attempts, want 502 %s", status, b, passed.Load(), asked.Load(), reason)
				}
				if grown := heap() - before; grown > 4<<20 {
					t.Errorf("%d bytes more", grown)
				}
				if status, b := get("/next"); status != 200 {
					t.Errorf("afterwards: %d %s", status, b)
				}
				if told, want := w.told(), []string{reason + " Allowed"}; !slices.Equal(told, want) { // it was, and failed
					t.Errorf("events %q, want %q", told, want)
				}
			})
		})
	}
}

// TestHugeHeadIsAskedForOnce: a head that net/http gives up on is an answer, too, and
// the request is not sent again.
func TestHugeHeadIsAskedForOnce(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, readOnlyPolicy))
		var asked atomic.Int32
		w.secureWeb(h2, func(rw http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			for i := range 60 { // 240 KiB
				rw.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 4<<10))
			}
		}, "api.example.com:443")
		resp, err := w.client(own, h2).Get("https://api.example.com/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 502 || asked.Load() != 1 {
			t.Errorf("%s after %d attempts, want 502 after one", resp.Status, asked.Load())
		}
	})
}

// TestTunnelsEnd when nothing moves for long, and when they are old, whatever
// moves.
func TestTunnelsEnd(t *testing.T) {
	for reason, limit := range map[string]func(*Limits){
		endIdle:     func(l *Limits) { l.Idle = 2 * time.Second },
		endLifetime: func(l *Limits) { l.Lifetime = 2 * time.Second },
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rules{"a.example:443": {}}, func(o *Options) { limit(&o.Limits) })
			ended := make(chan struct{})
			w.origin(func(c *net.TCPConn) { echo(c); close(ended) }, "a.example:443")
			c := w.connect("a.example:443")
			for err := error(nil); err == nil && reason == endLifetime; time.Sleep(time.Millisecond) {
				_, err = c.Write([]byte("x"))
			}
			io.Copy(io.Discard, c.br)
			<-ended // the server's side, too
			w.event(func(e event.Event) bool { return e.StatusCode == reason })
			if told := w.told(); len(told) != 1 {
				t.Errorf("events %q, want %s alone", told, reason)
			}
			w.eventually("nothing is kept of it", func() bool { return len(w.server.conns.all()) == 0 })
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
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	r, body := c.say("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET")
	if r.StatusCode != 504 || !strings.Contains(body, string(upstreamTimeout)) {
		t.Errorf("%s %s, want 504", r.Status, body)
	}
	c.ends()
	if told := w.told(); !slices.Equal(told, []string{"name_not_resolved Allowed"}) {
		t.Errorf("events %q, want name_not_resolved", told)
	}
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

// TestPlacesAreBounded: one connection too many that carries HTTP is told so and
// closed, or reset where it would have spoken HTTP/2; the server hears nothing of
// it, and the others go on.
func TestPlacesAreBounded(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
	for why, c := range map[string]struct {
		limit func(*Limits)
		open  func(*world, *inspect.Authority) *raw
	}{
		"plain": {func(l *Limits) { l.Requests = 1 }, func(w *world, _ *inspect.Authority) *raw {
			return w.raw(w.capture("api.example.com", "93.184.216.34:443").TCPConn)
		}},
		"TLS": {func(l *Limits) { l.Inspected = 1 }, func(w *world, own *inspect.Authority) *raw {
			return w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
		}},
	} {
		t.Run(why, func(t *testing.T) {
			w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { c.limit(&o.Limits) })
			var got seen
			let := make(chan struct{})
			serve := func(rw http.ResponseWriter, r *http.Request) {
				got.recording(rw, r)
				select {
				case <-let:
				case <-r.Context().Done():
				}
			}
			if why == "plain" {
				w.web(serve, "api.example.com:443")
			} else {
				w.secureWeb(true, serve, "api.example.com:443")
			}
			first := c.open(w, own).say(get)
			w.eventually("a request on its way", func() bool { return len(got.all()) == 1 })
			second := c.open(w, own)
			if r, b := second.say(get).answer("GET"); r.StatusCode != 503 || !strings.Contains(b, `"too_many_requests"`) {
				t.Errorf("%s %s, want 503", r.Status, b)
			}
			second.ends()
			want := []string{"too_many_requests Blocked"}
			if why == "TLS" {
				want = append(want, want[0])
				third := w.tunnelTLS(own, "api.example.com:443", "api.example.com", "h2")
				if _, err := io.ReadAll(third); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("HTTP/2: %v, want a reset", err)
				}
			}
			if told := w.told(); !slices.Equal(told, want) {
				t.Errorf("events %q, want %q", told, want)
			}
			close(let)
			if r, _ := first.answer("GET"); r.StatusCode != 200 || len(got.all()) != 1 {
				t.Errorf("the first one: %s; the server saw %q", r.Status, got.all())
			}
			w.eventually("no place is taken", func() bool { return len(w.server.requests)+len(w.server.inspections) == 0 })
		})
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
	c := w.saying("CONNECT api.example.com:443 HTTP/1.1\r\n\r\n" + string(recordedHello(t, "api.example.com"))) // and no more
	io.Copy(io.Discard, c.br)
	w.event(func(e event.Event) bool { return e.StatusCode == "client_tls" })
	if told := w.told(); !slices.Equal(told, []string{"client_tls Blocked"}) {
		t.Errorf("events %q, want client_tls", told)
	}
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
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Limits.KeepAlive = 2 * time.Second })
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
	var each int64
	w.eventually("each idle connection takes 80 KiB at most", func() bool { // a moment after settle
		each = (heap() - before) / n
		return each <= 80<<10
	})
	t.Logf("%d bytes for each idle connection, the client's side of it included", each)
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

// TestRefusedClientsEnd: a client that was refused may read why for a moment. One that
// neither goes nor is silent is not listened to for ever.
func TestRefusedClientsEnd(t *testing.T) {
	for _, goesOn := range []bool{false, true} {
		t.Run(fmt.Sprint("goes on: ", goesOn), func(t *testing.T) {
			w := newWorld(t, rules{})
			c := w.open().send("rubbish\n")
			if r, _ := c.answer("GET"); r.StatusCode != 400 {
				t.Fatalf("%s, want 400", r.Status)
			}
			sent, more := 0, make([]byte, 64<<10)
			for goesOn {
				n, err := c.Write(more)
				if sent += n; err != nil {
					break
				}
				if sent > lingerBytes+64<<20 { // far more than is between the two
					t.Fatalf("%d bytes were taken of a client that was refused", sent)
				}
			}
			w.eventually("the end, though the client stays", func() bool { return len(w.server.conns.all()) == 0 })
			if told := w.told(); !slices.Equal(told, []string{"bad_request Blocked"}) {
				t.Errorf("events %q, want bad_request", told)
			}
		})
	}
}
