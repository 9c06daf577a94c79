package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"sallyport/internal/event"
	"sallyport/internal/policy"
)

const (
	rawHost     = `      - {host: api.example.com, port: 443}`
	fullHost    = `      - {host: api.example.com, port: 443, protocol: rest, access: full, enforcement: enforce}`
	graphqlHost = `      - {host: api.example.com, port: 443, protocol: graphql, enforcement: enforce, rules: [{allow: {operation_type: query}}]}`
	secretText  = "id AKIAIOSFODNN7EXAMPLE."
)

func redactor(config string) string {
	return "network_middlewares:\n  dlp: {middleware: sallyport/regex, order: 1, " + config + "}\n"
}

func body(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRedactedRequest: what a pattern matches does not leave, over HTTP/1.1 and HTTP/2, from an endpoint with
// rules and from one without, and with a length of its own.
func TestRedactedRequest(t *testing.T) {
	for name, endpoint := range map[string]string{"rules": fullHost, "no rules": rawHost} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s h2=%v", name, h2), func(t *testing.T) {
				w, own := inspecting(t, policyWith(t, endpoint, redactor("config: {}")))
				var got seen
				w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					got.add("%d %s", r.ContentLength, b)
				}, "api.example.com:443")
				c := w.client(own, h2)
				for _, r := range []io.Reader{strings.NewReader(secretText), struct{ io.Reader }{strings.NewReader(secretText)}} {
					resp, err := c.Post("https://api.example.com/", "text/plain", r)
					body(t, resp, err)
				}
				for _, b := range got.all() {
					if b != "29 id [redacted:aws-access-key]." {
						t.Errorf("the server got %q", b)
					}
				}
				if len(got.all()) != 2 {
					t.Errorf("the server got %q, want two requests", got.all())
				}
				e := w.event(func(e event.Event) bool { return e.ClassUID == event.DetectionFinding })
				if !strings.Contains(e.FindingInfo.Title, "middleware dlp: redacted") || strings.Contains(e.FindingInfo.Desc, "AKIA") {
					t.Errorf("finding %+v", e.FindingInfo)
				}
			})
		}
	}
}

// TestGrownBodiesAreCounted: what a middleware makes of a body is held too, and its
// growth is charged as the body was.
func TestGrownBodiesAreCounted(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		const held = 1000
		w, own := inspecting(t, policyWith(t, fullHost, redactor("config: {patterns: [{name: p, regex: x}]}")), func(o *Options) { o.Limits.Held = held })
		var got seen
		w.secureWeb(h2, func(_ http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got.add("%s", b)
		}, "api.example.com:443")
		client := w.client(own, h2)
		for _, c := range []struct{ n, status int }{{held / len("[redacted:p]"), 200}, {held/len("[redacted:p]") + 1, 503}} {
			resp, err := client.Post("https://api.example.com/", "text/plain", strings.NewReader(pad(c.n)))
			if b := body(t, resp, err); resp.StatusCode != c.status || (c.status == 503) != strings.Contains(b, "too_many_bodies") {
				t.Errorf("%d bytes that grow: %s %s, want %d", c.n, resp.Status, b, c.status)
			}
			w.eventually("no body is held", func() bool { return w.server.held.Load() == 0 })
		}
		if want := []string{repeat("[redacted:p]", held/len("[redacted:p]"))}; !slices.Equal(got.all(), want) {
			t.Errorf("the server got %.200q, want %.200q", got.all(), want)
		}
	})
}

// TestMiddlewareRefuses: a denial, a body that cannot be seen, and a service that is not there, each as the agent
// sees it; with fail_open all but the denial pass untouched.
func TestMiddlewareRefuses(t *testing.T) {
	const absent = "network_middlewares:\n  dlp: {middleware: sallyport/grpc, order: 1, config: {address: 'unix:/nonexistent/s'}"
	long := strings.Repeat("x", 200)
	for _, c := range []struct {
		name, more, body, encoding string
		chunked                    bool
		status                     int
		code                       string
		open                       bool
	}{
		{"denied", redactor("config: {mode: deny}"), secretText, "", false, 403, "middleware_denied", false},
		{"denied with fail_open", redactor("on_error: fail_open, config: {mode: deny}"), secretText, "", false, 403, "middleware_denied", false},
		{"too large", redactor("config: {max_body_bytes: 100}"), long, "", false, 413, "body_too_large", true},
		{"too large in chunks", redactor("config: {max_body_bytes: 100}"), long, "", true, 413, "body_too_large", true},
		{"encoded", redactor("config: {}"), secretText, "br", false, 503, "middleware_failed", true},
		{"no service", absent + "}\n", secretText, "", false, 503, "middleware_failed", true},
	} {
		for _, open := range []bool{false, true} {
			if open && !c.open {
				continue
			}
			t.Run(fmt.Sprintf("%s open=%v", c.name, open), func(t *testing.T) {
				more := c.more
				if open {
					more = strings.Replace(more, "order: 1", "order: 1, on_error: fail_open", 1)
				}
				w, own := inspecting(t, policyWith(t, fullHost, more))
				var got seen
				w.secureWeb(false, got.recording, "api.example.com:443")
				r, err := http.NewRequest("POST", "https://api.example.com/x", strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				if c.chunked {
					r.Body, r.ContentLength = io.NopCloser(struct{ io.Reader }{r.Body}), -1
				}
				if c.encoding != "" {
					r.Header.Set("Content-Encoding", c.encoding)
				}
				resp, err := w.client(own, false).Do(r)
				b := body(t, resp, err)
				if open {
					if resp.StatusCode != 200 || len(got.all()) != 1 || !strings.Contains(got.all()[0], c.body) {
						t.Errorf("status %s, the server got %q, want it untouched", resp.Status, got.all())
					}
					return
				}
				if resp.StatusCode != c.status || !strings.Contains(b, `"`+c.code+`"`) || len(got.all()) != 0 {
					t.Errorf("status %s %s, want %d %s; the server got %q", resp.Status, b, c.status, c.code, got.all())
				}
				if told := w.told(); !slices.Equal(told, []string{c.code + " Blocked"}) {
					t.Errorf("events %q, want %s", told, c.code)
				}
			})
		}
	}
}

// TestBodyThatPassedUnseen: what a middleware let through, because it failed open, is bounded and charged all the same
// where placeholders are looked for in it.
func TestBodyThatPassedUnseen(t *testing.T) {
	const rewriting = `      - {host: api.example.com, port: 443, protocol: rest, access: full, enforcement: enforce, request_body_credential_rewrite: true}`
	w, own := inspecting(t, policyWith(t, rewriting, redactor("on_error: fail_open, config: {max_body_bytes: 100}")), func(o *Options) { o.Secrets = vault{} })
	var got seen
	w.secureWeb(false, func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		got.add("%d, %d held", n, w.server.held.Load())
	}, "api.example.com:443")
	for size, want := range map[int]int{256 << 10: 200, 256<<10 + 1: 413} {
		resp, err := w.client(own, false).Post("https://api.example.com/", "text/plain", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", size))})
		if b := body(t, resp, err); resp.StatusCode != want {
			t.Errorf("%d bytes: %s %s, want %d", size, resp.Status, b, want)
		}
	}
	if want := fmt.Sprintf("%d, %d held", 256<<10, 256<<10+100); len(got.all()) != 1 || got.all()[0] != want {
		t.Errorf("the server got %q, want %s", got.all(), want)
	}
	w.eventually("nothing is held", func() bool { return w.server.held.Load() == 0 })
}

// TestChangedRequestIsJudgedAgain: what a middleware makes of a request is what rules are asked about.
func TestChangedRequestIsJudgedAgain(t *testing.T) {
	change := redactor(`config: {patterns: [{name: n, regex: "query Q", replacement: "mutation Q"}]}`)
	w, own := inspecting(t, policyWith(t, graphqlHost, change))
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	c := w.client(own, false)
	ask := func(query string) (*http.Response, string) {
		resp, err := c.Post("https://api.example.com/", "application/json", strings.NewReader(`{"query":"`+query+`"}`))
		return resp, body(t, resp, err)
	}
	if resp, b := ask("query A { a }"); resp.StatusCode != 200 {
		t.Errorf("an allowed query: %s %s", resp.Status, b)
	}
	if resp, b := ask("query Q { a }"); resp.StatusCode != 403 || !strings.Contains(b, "mutation") {
		t.Errorf("a query that became a mutation: %s %s", resp.Status, b)
	}
	if n := len(got.all()); n != 1 {
		t.Errorf("the server saw %q", got.all())
	}
}

// TestRedactedAnswer: answers as a whole and events one by one; the first event does not wait for the second.
func TestRedactedAnswer(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			w, own := inspecting(t, policyWith(t, fullHost, redactor("config: {apply: [responses], max_body_bytes: 100}")))
			more := make(chan struct{})
			w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept-Encoding") != "identity" || r.Header.Get("Range") != "" {
					t.Errorf("the server was asked for %v", r.Header)
				}
				switch r.URL.Path {
				case "/text":
					rw.Header().Set("Etag", `"x"`)
					io.WriteString(rw, secretText)
				case "/long":
					io.WriteString(rw, strings.Repeat("x", 101))
				case "/events":
					rw.Header().Set("Content-Type", "text/event-stream")
					io.WriteString(rw, "data: "+secretText+"\n\n")
					rw.(http.Flusher).Flush()
					<-more
					io.WriteString(rw, "data: "+strings.Repeat("x", 200)+"\n\n")
				}
			}, "api.example.com:443")
			c := w.client(own, h2)
			get := func(method, path string) (*http.Response, error) {
				r, err := http.NewRequest(method, "https://api.example.com"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Range", "bytes=5-")
				r.Header.Set("Accept-Encoding", "gzip")
				return c.Do(r)
			}
			resp, err := get("GET", "/text")
			if b := body(t, resp, err); b != "id [redacted:aws-access-key]." || resp.Header.Get("Etag") != "" || resp.ContentLength != int64(len(b)) {
				t.Errorf("answer %q of %d with %v", b, resp.ContentLength, resp.Header)
			}
			resp, err = get("HEAD", "/text")
			if b := body(t, resp, err); resp.StatusCode != 200 || b != "" {
				t.Errorf("HEAD: %s %q", resp.Status, b)
			}
			resp, err = get("GET", "/long")
			if b := body(t, resp, err); resp.StatusCode != 413 || !strings.Contains(b, "body_too_large") {
				t.Errorf("long answer: %s %q", resp.Status, b)
			}
			resp, err = get("GET", "/events")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			const first = "data: id [redacted:aws-access-key].\n\n"
			b := make([]byte, len(first))
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != first {
				t.Errorf("first event %q, %v", b, err)
			}
			close(more)
			if b, err := io.ReadAll(resp.Body); err == nil || len(b) > 0 {
				t.Errorf("after an event that is too large: %q, %v, want a cut stream", b, err)
			}
		})
	}
}

// TestMiddlewareReadsWebSockets: text messages pass it, on an endpoint without rules too, and binary ones, which
// it could not read, do not.
func TestMiddlewareReadsWebSockets(t *testing.T) {
	wsHost := `      - {host: api.example.com, port: 443, protocol: websocket, access: full, enforcement: enforce}`
	for name, endpoint := range map[string]string{"no rules": rawHost, "rules": wsHost} {
		t.Run(name, func(t *testing.T) {
			w, own := inspecting(t, policyWith(t, endpoint, redactor("config: {}")))
			got := make(chan string, 8)
			w.secureWeb(false, echoing(got), "api.example.com:443")
			c, _, err := websocket.Dial(t.Context(), "wss://api.example.com/", &websocket.DialOptions{HTTPClient: w.client(own, false)})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			if err := c.Write(t.Context(), websocket.MessageText, []byte(secretText)); err != nil {
				t.Fatal(err)
			}
			if b := receive(t, got); b != "id [redacted:aws-access-key]." {
				t.Errorf("the server got %q", b)
			}
			if err := c.Write(t.Context(), websocket.MessageBinary, []byte(secretText)); err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, _, err = c.Read(t.Context())
			}
			if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
				t.Errorf("after a binary message: %v, want 1008", err)
			}
			if b := receive(t, got); !strings.HasPrefix(b, "closed") {
				t.Errorf("the server got %q", b)
			}
		})
	}
}

// echoing is a WebSocket server that says what it gets.
func echoing(got chan<- string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"graphql-transport-ws"}})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil {
				got <- fmt.Sprintf("closed with %d", websocket.CloseStatus(err))
				return
			}
			got <- string(b)
			if c.Write(r.Context(), typ, b) != nil {
				return
			}
		}
	}
}

func receive(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(patience):
		t.Fatal("the server gets nothing")
		return ""
	}
}

// vault is Credentials that put one secret into WebSocket texts and take it out of answers.
type vault struct{}

func (vault) Apply(context.Context, *policy.Endpoint, string, uint16, *http.Request) error {
	return nil
}

func (vault) Scrub(_ *policy.Endpoint, _ string, _ uint16, r *http.Response) error {
	b, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(strings.ReplaceAll(string(b), "s3cr3t", "******")))
	return err
}

func (vault) Message(_ context.Context, _ *policy.Endpoint, _ string, _ uint16, _ *url.URL, _ bool, b []byte) ([]byte, error) {
	return bytes.ReplaceAll(b, []byte("PLACEHOLDER"), []byte("s3cr3t")), nil
}

// TestWebSocketServerMessages: a secret that the server says comes back as stars, compressed or not, in text and in
// binary messages, and middlewares for responses see what it says.
func TestWebSocketServerMessages(t *testing.T) {
	const endpoint = `      - {host: api.example.com, port: 443, protocol: websocket, access: full, enforcement: enforce}`
	for _, mode := range []websocket.CompressionMode{websocket.CompressionDisabled, websocket.CompressionContextTakeover} {
		for name, more := range map[string]string{"alone": "", "with a middleware": redactor("config: {apply: [responses]}")} {
			t.Run(fmt.Sprintf("%s, compression %d", name, mode), func(t *testing.T) {
				w, own := inspecting(t, policyWith(t, endpoint, more), func(o *Options) { o.Secrets = vault{} })
				got := make(chan string, 8)
				w.secureWeb(false, func(rw http.ResponseWriter, r *http.Request) {
					c, err := websocket.Accept(rw, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: mode, CompressionThreshold: 1})
					if err != nil {
						return
					}
					defer c.CloseNow()
					for range 3 {
						_, b, err := c.Read(r.Context())
						if err != nil {
							return
						}
						got <- string(b)
						c.Write(r.Context(), websocket.MessageText, b)
						c.Write(r.Context(), websocket.MessageBinary, b)
					}
				}, "api.example.com:443")
				c, _, err := websocket.Dial(t.Context(), "wss://api.example.com/", &websocket.DialOptions{
					HTTPClient: w.client(own, false), CompressionMode: mode, CompressionThreshold: 1,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				if err := c.Write(t.Context(), websocket.MessageText, []byte("PLACEHOLDER PLACEHOLDER "+secretText)); err != nil {
					t.Fatal(err)
				}
				if b := receive(t, got); b != "s3cr3t s3cr3t "+secretText {
					t.Errorf("the server got %q", b)
				}
				want := "****** ****** " + secretText
				if more != "" {
					want = "****** ****** id [redacted:aws-access-key]."
				}
				for _, typ := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
					if is, b, err := c.Read(t.Context()); err != nil || is != typ || string(b) != want {
						t.Errorf("Read = %v %q, %v, want %v %q", is, b, err, typ, want)
					}
				}
			})
		}
	}
}

// TestChangedTextIsJudgedAgain: what a middleware makes of a message is what rules are asked about.
func TestChangedTextIsJudgedAgain(t *testing.T) {
	const endpoint = `      - {host: api.example.com, port: 443, protocol: websocket, enforcement: enforce, rules: [{allow: {method: GET}}, {allow: {operation_type: query}}]}`
	w, own := inspecting(t, policyWith(t, endpoint, redactor(`config: {patterns: [{name: n, regex: "query Q", replacement: "mutation Q"}]}`)))
	got := make(chan string, 8)
	w.secureWeb(false, echoing(got), "api.example.com:443")
	c, _, err := websocket.Dial(t.Context(), "wss://api.example.com/", &websocket.DialOptions{HTTPClient: w.client(own, false), Subprotocols: []string{"graphql-transport-ws"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, query := range []string{"query A { a }", "query Q { a }"} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(`{"id":"1","type":"subscribe","payload":{"query":"`+query+`"}}`)); err != nil {
			t.Fatal(err)
		}
	}
	for err == nil {
		_, _, err = c.Read(t.Context())
	}
	if closed, ok := errors.AsType[websocket.CloseError](err); !ok || closed.Code != 1008 || !strings.Contains(closed.Reason, "mutation") {
		t.Errorf("the client: %v, want 1008 about the mutation", err)
	}
	if a, b := receive(t, got), receive(t, got); !strings.Contains(a, "query A") || !strings.HasPrefix(b, "closed") {
		t.Errorf("the server got %q, %q", a, b)
	}
}
