package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/internal/event"
	"sallyport/internal/policy"
)

const fullPolicy = `      - {host: api.example.com, port: 443, protocol: rest, access: full, enforcement: enforce}`

func versions(t *testing.T, run func(t *testing.T, h2 bool)) {
	for name, h2 := range map[string]bool{"HTTP1": false, "HTTP2": true} {
		t.Run(name, func(t *testing.T) { run(t, h2) })
	}
}

// TestNothingIsHeldBack: each part of an answer is passed on before the next one
// is there.
func TestNothingIsHeldBack(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, readOnlyPolicy))
		next := make(chan struct{})
		w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			rw.(http.Flusher).Flush()
			for i := range 3 {
				<-next
				fmt.Fprintf(rw, "data: %d\n\n", i)
				rw.(http.Flusher).Flush()
			}
		}, "api.example.com:443")
		resp, err := w.client(own, h2).Get("https://api.example.com/events") // returns with the head
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		for i := range 3 {
			next <- struct{}{}
			line, err := br.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
				t.Fatalf("%q, %v, want %q", line, err, want)
			}
			br.ReadString('\n')
		}
		if b, err := io.ReadAll(br); err != nil || len(b) > 0 {
			t.Errorf("end: %q %v", b, err)
		}
	})
}

// TestBodiesStream: a request's body is passed on as it comes, and both ways at
// once by HTTP/2.
func TestBodiesStream(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, fullPolicy))
		heard := make(chan string, 10)
		w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
			br := bufio.NewReader(r.Body)
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					break
				}
				heard <- line
			}
			io.WriteString(rw, "done")
		}, "api.example.com:443")
		pr, pw := io.Pipe()
		go func() {
			defer pw.Close()
			for i := range 3 {
				line := fmt.Sprintf("line %d\n", i)
				io.WriteString(pw, line)
				if got := <-heard; got != line {
					pw.CloseWithError(fmt.Errorf("the server heard %q", got))
				}
			}
		}()
		req, _ := http.NewRequest("POST", "https://api.example.com/up", pr)
		resp, err := w.client(own, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "done" {
			t.Errorf("%q %v", b, err)
		}
	})
}

// TestLargeBodies pass whole, both ways.
func TestLargeBodies(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, fullPolicy))
		const size = 5 << 20
		w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			if n != size || err != nil {
				t.Errorf("the server got %d bytes, %v", n, err)
			}
			io.Copy(rw, strings.NewReader(strings.Repeat("y", size)))
		}, "api.example.com:443")
		resp, err := w.client(own, h2).Post("https://api.example.com/", "text/plain", strings.NewReader(strings.Repeat("x", size)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			t.Errorf("%d bytes, %v, want %d", n, err, size)
		}
	})
}

// TestInterimAnswers are passed on with their fields.
func TestInterimAnswers(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, readOnlyPolicy))
		w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Link", "</style.css>")
			rw.WriteHeader(103)
			rw.Header().Set("X-Last", "yes")
			io.WriteString(rw, "ok")
		}, "api.example.com:443")
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://api.example.com/", nil)
		resp, err := w.client(own, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if fmt.Sprint(hints) != "[103</style.css>]" || string(b) != "ok" || resp.Header.Get("X-Last") != "yes" {
			t.Errorf("hints %v, then %q with %v", hints, b, resp.Header)
		}
	})
}

// TestTrailers is how gRPC ends: after the body, or with nothing else.
func TestTrailers(t *testing.T) {
	w, own := inspecting(t, policyOf(t, `      - host: api.example.com
        port: 443
        protocol: rest
        enforcement: enforce
        rules: [{allow: {method: POST, path: /pkg.Service/Get}}, {allow: {method: POST, path: /pkg.Service/Fail}}]`))
	w.secureWeb(true, func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Te") != "trailers" {
			t.Errorf("TE is %q", r.Header.Get("Te"))
		}
		if r.URL.Path == "/pkg.Service/Fail" {
			rw.Header().Set("Grpc-Status", "5") // Trailers-Only: one block of headers that ends the stream
			return
		}
		io.Copy(rw, r.Body)
		rw.(http.Flusher).Flush()
		rw.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}, "api.example.com:443")
	client := w.client(own, true)
	for path, status := range map[string]int{"/pkg.Service/Get": 200, "/pkg.Service/Fail": 200, "/pkg.Service/Delete": 403} {
		req, _ := http.NewRequest("POST", "https://api.example.com"+path, strings.NewReader("\x00\x00\x00\x00\x01x"))
		req.Header.Set("Te", "trailers")
		req.Header.Set("Content-Type", "application/grpc")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != status || err != nil {
			t.Errorf("%s: %s %v", path, resp.Status, err)
		}
		if path == "/pkg.Service/Fail" {
			if resp.ContentLength != 0 || resp.Header.Get("Grpc-Status") != "5" {
				t.Errorf("%s: length %d, headers %v, want an end with the headers", path, resp.ContentLength, resp.Header)
			}
		} else if status == 200 && (string(b) != "\x00\x00\x00\x00\x01x" || resp.Trailer.Get("Grpc-Status") != "0") {
			t.Errorf("%s: body %q, trailers %v", path, b, resp.Trailer)
		}
	}
}

// TestEarlyAnswers arrive, though the client is still sending: those of servers
// and our own refusals.
func TestEarlyAnswers(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, `      - host: api.example.com
        port: 443
        protocol: rest
        enforcement: enforce
        rules: [{allow: {method: POST, path: /up}}]`))
		w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(422) }, "api.example.com:443")
		client := w.client(own, h2)
		for path, status := range map[string]int{"/up": 422, "/denied": 403} {
			resp, err := client.Post("https://api.example.com"+path, "text/plain", strings.NewReader(strings.Repeat("x", 2<<20)))
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			resp.Body.Close()
			if resp.StatusCode != status {
				t.Errorf("%s: %s, want %d", path, resp.Status, status)
			}
		}
	})
}

// TestUploadsKeepTheConnection: a body that is sent while the answer is awaited
// does not cost the client its connection.
func TestUploadsKeepTheConnection(t *testing.T) {
	w, own := inspecting(t, policyOf(t, fullPolicy))
	var got seen
	w.secureWeb(false, func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got.add("%s", r.URL.Path)
	}, "api.example.com:443")
	client := w.client(own, false)
	fresh := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			fresh++
		}
	}})
	for i := range 20 {
		req, _ := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("https://api.example.com/%d", i), strings.NewReader(strings.Repeat("x", 300<<10)))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if n := len(got.all()); n != 20 || fresh > 3 { // a machine that is busy may lose the moment
		t.Errorf("%d requests on %d connections, want 20 on 1", n, fresh)
	}
}

// TestHeadAndEmpty: answers without a body leave the connection in step.
func TestHeadAndEmpty(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, fullPolicy))
		w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/204":
				rw.WriteHeader(204)
			case "/304":
				rw.WriteHeader(304)
			default:
				rw.Header().Set("Content-Length", "7")
				io.WriteString(rw, "content")
			}
		}, "api.example.com:443")
		client := w.client(own, h2)
		for range 2 {
			for _, c := range []struct {
				method, path string
				status       int
				body         string
			}{{"HEAD", "/", 200, ""}, {"GET", "/204", 204, ""}, {"GET", "/304", 304, ""}, {"GET", "/", 200, "content"}, {"DELETE", "/204", 204, ""}} {
				req, _ := http.NewRequest(c.method, "https://api.example.com"+c.path, nil)
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != c.status || string(b) != c.body || err != nil {
					t.Errorf("%s %s: %s %q %v", c.method, c.path, resp.Status, b, err)
				}
			}
		}
	})
}

// TestConnectionsAreShared: what is kept serves the next client, as long as the
// same policy is in force.
func TestConnectionsAreShared(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		d := policyOf(t, readOnlyPolicy)
		w, own := inspecting(t, d)
		var conns atomic.Int32
		cfg, _ := public().Server("api.example.com", h2)
		w.secureServer(cfg, &http.Server{
			Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "ok") }), ErrorLog: quiet(),
			ConnState: func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					conns.Add(1)
				}
			},
		}, "api.example.com", "443")
		get := func() {
			t.Helper()
			client := w.client(own, h2)
			resp, err := client.Get("https://api.example.com/")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			client.CloseIdleConnections()
			w.kept(1)
		}
		for range 3 {
			get()
		}
		if n := conns.Load(); n != 1 {
			t.Errorf("%d connections for three clients, want 1", n)
		}
		w.server.SetDecider(d)
		get()
		if n := conns.Load(); n != 2 {
			t.Errorf("%d connections after a new policy, want 2", n)
		}
	})
}

// kept waits until the pool has n connections, none of them in use: that is a moment
// after the client has its answer.
func (w *world) kept(n int) {
	w.t.Helper()
	p := &w.server.pool
	w.eventually(fmt.Sprintf("the pool holds %d connections", n), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, list := range p.shared {
			for _, m := range list {
				if m.cc.InFlight() > 0 {
					return false
				}
			}
		}
		return p.n == n
	})
}

// replaced is a policy in whose place another one comes while it judges a request
// with a path.
type replaced struct {
	Decider
	path string
	by   func()
}

func (p replaced) DecideRequest(ctx context.Context, q Query, req policy.Request) (Decision, error) {
	if req.Path == p.path {
		defer p.by()
	}
	return p.Decider.DecideRequest(ctx, q, req)
}

// TestJudgedByTheLastPolicy: a request that was allowed by a policy which has been
// replaced before anybody could see the request is judged by the new one, although
// a connection that was made under the old one is still in use.
func TestJudgedByTheLastPolicy(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		var w *world
		strict := policyOf(t, strings.Replace(readOnlyPolicy, "access: read-only", `rules: [{allow: {method: GET, path: /long}}]`, 1))
		w, own := inspecting(t, replaced{policyOf(t, readOnlyPolicy), "/now", func() { w.server.SetDecider(strict) }})
		let := make(chan struct{})
		var got seen
		w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
			got.add("%s", r.URL.Path)
			rw.(http.Flusher).Flush()
			if r.URL.Path == "/long" {
				select {
				case <-let:
				case <-r.Context().Done():
				}
			}
		}, "api.example.com:443")
		client := w.client(own, h2)
		long, err := client.Get("https://api.example.com/long")
		if err != nil {
			t.Fatal(err)
		}
		defer long.Body.Close()
		resp, err := client.Get("https://api.example.com/now")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if all := got.all(); resp.StatusCode != 403 || len(all) != 1 {
			t.Errorf("%s, and the server was asked for %v; want 403", resp.Status, all)
		}
		close(let)
	})
}

// eventually waits for something that has no event.
func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Errorf("not so after so long a time: %s", what)
			return
		}
	}
}

// TestStaleConnection: a server that closed a kept connection is no error to the
// agent, unless the request may have been seen.
func TestStaleConnection(t *testing.T) {
	w, own := inspecting(t, policyOf(t, fullPolicy))
	var conns atomic.Int32
	w.secureRaw("api.example.com:443", func(c net.Conn, br *bufio.Reader) {
		conns.Add(1)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		http.ReadRequest(br) // and closes without an answer
	})
	client := w.client(own, false)
	for i, c := range []struct {
		method string
		status int
	}{{"GET", 200}, {"GET", 200}, {"POST", 502}} {
		req, _ := http.NewRequest(c.method, "https://api.example.com/", nil)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%d, %s: %s, want %d", i, c.method, resp.Status, c.status)
		}
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// TestPolicyChangeEndsStreams: an answer that is still coming ends when a new
// policy does not allow its request any more, and goes on when it does.
func TestPolicyChangeEndsStreams(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, fullPolicy))
		w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
			for {
				if _, err := io.WriteString(rw, "data\n"); err != nil {
					return
				}
				rw.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		}, "api.example.com:443")
		client := w.client(own, h2)
		req, _ := http.NewRequest("POST", "https://api.example.com/", nil)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		change := func(to Decider) int {
			w.server.SetDecider(to)
			return w.server.CloseDisallowed(func(q Query) bool { d, err := to.Decide(context.Background(), q); return err == nil && d.Allow })
		}
		if n := change(policyOf(t, fullPolicy)); n != 0 {
			t.Errorf("%d ended that are still allowed", n)
		}
		for range 5 {
			if line, err := br.ReadString('\n'); err != nil || line != "data\n" {
				t.Fatalf("%q %v", line, err)
			}
		}
		if n := change(policyOf(t, readOnlyPolicy)); n != 1 {
			t.Errorf("%d ended, want 1", n)
		}
		if _, err := io.Copy(io.Discard, br); err == nil {
			t.Error("the answer ended as if it were whole")
		}
	})
}

// TestManyStreams run on one connection and are judged each.
func TestManyStreams(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Limits.Streams = 8 })
	var got seen
	w.secureWeb(true, got.recording, "api.example.com:443")
	client := w.client(own, true)
	results := make(chan string, 60)
	for i := range 60 {
		go func() {
			method := []string{"GET", "POST"}[i%2]
			req, _ := http.NewRequest(method, fmt.Sprintf("https://api.example.com/%d", i), nil)
			resp, err := client.Do(req)
			if err != nil {
				results <- err.Error()
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			results <- fmt.Sprint(method, resp.StatusCode)
		}()
	}
	counts := map[string]int{}
	for range 60 {
		counts[<-results]++
	}
	if counts["GET200"] != 30 || counts["POST403"] != 30 {
		t.Errorf("%v", counts)
	}
	if n := len(got.all()); n != 30 {
		t.Errorf("the server saw %d requests, want 30", n)
	}
}

// TestBugIsOneRequest: a panic of ours ends one request and is told.
func TestBugIsOneRequest(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) {
		o.Local = Local{"api.example.com": panics{}}
	})
	if _, err := w.client(own, true).Get("https://api.example.com/"); err == nil {
		t.Error("no error")
	}
	w.event(func(e event.Event) bool { return e.FindingInfo != nil && e.FindingInfo.UID == "proxy_panic" })
}

type panics struct{}

func (panics) RoundTrip(*http.Request) (*http.Response, error) { panic("bug") }
func (panics) MaxBody() int64                                  { return 1 }
