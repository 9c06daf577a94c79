package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/internal/event"
)

const readOnlyPolicy = `      - {host: api.example.com, port: 443, protocol: rest, access: read-only, enforcement: enforce}`

// raw speaks HTTP/1 inside TLS by hand.
type raw struct {
	net.Conn
	br *bufio.Reader
	t  testing.TB
}

func (w *world) raw(c net.Conn) *raw {
	c.SetDeadline(time.Now().Add(patience))
	return &raw{c, bufio.NewReader(c), w.t}
}

func (r *raw) say(s string) *raw {
	r.t.Helper()
	if _, err := io.WriteString(r, s); err != nil {
		r.t.Fatalf("sending: %v", err)
	}
	return r
}

func (r *raw) answer(method string) (*http.Response, string) {
	r.t.Helper()
	resp, err := http.ReadResponse(r.br, &http.Request{Method: method})
	if err != nil {
		r.t.Fatalf("reading the answer: %v", err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("reading the body: %v (%q)", err, b)
	}
	return resp, string(b)
}

// ends waits for the end of the connection.
func (r *raw) ends() {
	r.t.Helper()
	if b, err := io.ReadAll(r.br); err != nil && !strings.Contains(err.Error(), "reset") || len(b) > 0 {
		r.t.Errorf("after the end: %q, %v", b, err)
	}
}

// recording is a server that notes what it was asked and answers "ok".
func (s *seen) recording(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.add("%s %s %s %q", r.Method, r.Host, r.RequestURI, b)
	io.WriteString(w, "ok")
}

// TestEveryRequestIsJudged: what was allowed once on a connection says nothing
// about what comes next on it.
func TestEveryRequestIsJudged(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	for i := range 3 {
		if r, b := c.say(fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: api.example.com\r\n\r\n", i)).answer("GET"); r.StatusCode != 200 || b != "ok" {
			t.Fatalf("GET %d: %s %q", i, r.Status, b)
		}
	}
	r, b := c.say("DELETE /3 HTTP/1.1\r\nHost: api.example.com\r\n\r\nGET /4 HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("DELETE")
	if r.StatusCode != 403 || !strings.Contains(b, `"rule_missing"`) {
		t.Errorf("DELETE: %s %s", r.Status, b)
	}
	c.ends()
	if n := len(got.all()); n != 3 {
		t.Errorf("the server saw %q", got.all())
	}
	if e := w.denied(); e.HTTPRequest == nil || e.HTTPRequest.HTTPMethod != "DELETE" || e.HTTPRequest.URL.Scheme != "https" {
		t.Errorf("event %+v", e)
	}
}

// TestAudit lets pass and tells.
func TestAudit(t *testing.T) {
	w, own := inspecting(t, policyOf(t, strings.Replace(readOnlyPolicy, "enforcement: enforce", "enforcement: audit", 1)))
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	if r, _ := c.say("DELETE /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("DELETE"); r.StatusCode != 200 {
		t.Errorf("status %s, want 200", r.Status)
	}
	e := w.event(func(e event.Event) bool { return e.DispositionID == event.Logged })
	if e.StatusCode != "request_not_allowed" || e.HTTPRequest.HTTPMethod != "DELETE" {
		t.Errorf("event %+v", e)
	}
	// What cannot be read is denied all the same.
	if r, _ := c.say("GET /a%2Fb HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET"); r.StatusCode != 400 {
		t.Errorf("escaped slash: status %s, want 400", r.Status)
	}
}

// TestQuiet leaves out what a rule has allowed, and nothing else.
func TestQuiet(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		for enforcement, want := range map[string][]event.Disposition{
			"enforce": {event.Allowed, event.Blocked}, "audit": {event.Allowed, event.Logged},
		} {
			if quiet {
				want = want[1:]
			}
			document := strings.Replace(readOnlyPolicy, "enforcement: enforce", "enforcement: "+enforcement, 1)
			w, own := inspecting(t, policyOf(t, document), func(o *Options) { o.Quiet = quiet })
			var got seen
			w.secureWeb(false, got.recording, "api.example.com:443")
			c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
			c.say("GET /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET")
			c.say("DELETE /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("DELETE")
			w.event(func(e event.Event) bool { return e.HTTPRequest != nil && e.HTTPRequest.HTTPMethod == "DELETE" })
			w.mu.Lock()
			var found []event.Disposition
			for _, e := range w.events {
				if e.HTTPRequest != nil {
					found = append(found, e.DispositionID)
				}
			}
			w.mu.Unlock()
			if !slices.Equal(found, want) {
				t.Errorf("quiet %v, %s: %v, want %v", quiet, enforcement, found, want)
			}
		}
	}
}

// TestAuthorities: the host of the tunnel, of TLS and of each request are one.
func TestAuthorities(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy+"\n"+strings.ReplaceAll(readOnlyPolicy, "api.", "www.")))
	var got seen
	w.secureWeb(true, got.recording, "api.example.com:443")
	w.secureWeb(true, got.recording, "www.example.com:443")
	for _, c := range []struct {
		sni, host string
		status    int
	}{
		{"api.example.com", "api.example.com", 200},
		{"api.example.com", "API.example.com.:443", 200},
		{"", "api.example.com", 200},
		{"api.example.com", "www.example.com", 421},
		{"www.example.com", "www.example.com", 421},
		{"www.example.com", "api.example.com", 421},
		{"api.example.com", "api.example.com:8443", 421},
		{"api.example.com", "api.example.com@www.example.com", 400},
		{"api.example.com", "api.example.com:0443", 400},
		{"api.example.com", "", 400},
	} {
		name := c.sni
		if name == "" {
			name = "api.example.com"
		}
		front := w.connect("api.example.com:443")
		tc := tls.Client(front.TCPConn, &tls.Config{RootCAs: trusting(own), ServerName: c.sni, InsecureSkipVerify: c.sni == ""})
		if err := tc.Handshake(); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if err := tc.ConnectionState().PeerCertificates[0].VerifyHostname(name); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		r, _ := w.raw(tc).say("GET / HTTP/1.1\r\nHost: " + c.host + "\r\n\r\n").answer("GET")
		if r.StatusCode != c.status {
			t.Errorf("SNI %q, Host %q: status %s, want %d", c.sni, c.host, r.Status, c.status)
		}
		tc.Close()
	}
	if n := len(got.all()); n != 3 {
		t.Errorf("the servers saw %q", got.all())
	}
}

// TestAuthorityOfStreams is the same for HTTP/2.
func TestAuthorityOfStreams(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	var got seen
	w.secureWeb(true, got.recording, "api.example.com:443")
	client := w.client(own, true)
	for host, status := range map[string]int{"api.example.com": 200, "API.example.com:443": 200, "www.example.com": 421, "api.example.com:8443": 421, "a b": 400} {
		req, err := http.NewRequest("GET", "https://api.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := client.Do(req)
		if host == "a b" && err != nil {
			continue // net/http does not even send it
		}
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		resp.Body.Close()
		if resp.StatusCode != status || resp.ProtoMajor != 2 {
			t.Errorf("authority %q: %s %s, want %d by HTTP/2", host, resp.Proto, resp.Status, status)
		}
	}
	if n := len(got.all()); n != 2 {
		t.Errorf("the server saw %q", got.all())
	}
}

// TestMalformedInside: what two programs could read in two ways is answered with
// 400 and the end, and the server hears nothing of it.
func TestMalformedInside(t *testing.T) {
	const host = "Host: api.example.com\r\n"
	w, own := inspecting(t, policyOf(t, strings.Replace(readOnlyPolicy, "read-only", "full", 1)))
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	for why, text := range map[string]string{
		"CL.TE":              "POST / HTTP/1.1\r\n" + host + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":        "POST / HTTP/1.1\r\n" + host + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
		"list of lengths":    "POST / HTTP/1.1\r\n" + host + "Content-Length: 4, 4\r\n\r\nabcd",
		"signed length":      "POST / HTTP/1.1\r\n" + host + "Content-Length: +4\r\n\r\nabcd",
		"unknown coding":     "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n",
		"hidden coding":      "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \x0bchunked\r\n\r\n",
		"bare LF":            "GET / HTTP/1.1\n" + host + "\r\n",
		"bare LF later":      "GET / HTTP/1.1\r\n" + host + "A: b\n\r\n",
		"folded":             "GET / HTTP/1.1\r\n" + host + "A: b\r\n c\r\n\r\n",
		"space before colon": "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding : chunked\r\n\r\n",
		"two hosts":          "GET / HTTP/1.1\r\n" + host + "Host: evil.example\r\n\r\n",
		"NUL":                "GET / HTTP/1.1\r\n" + host + "A: b\x00c\r\n\r\n",
		"lower-case method":  "get / HTTP/1.1\r\n" + host + "\r\n",
		"TRACE":              "TRACE / HTTP/1.1\r\n" + host + "\r\n",
		"CONNECT":            "CONNECT api.example.com:443 HTTP/1.1\r\n" + host + "\r\n",
		"absolute":           "GET http://evil.example/ HTTP/1.1\r\n" + host + "\r\n",
		"preface":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"h2c":                "GET / HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
		"HTTP/3.0":           "GET / HTTP/3.0\r\n" + host + "\r\n",
		"above the root":     "GET /../x HTTP/1.1\r\n" + host + "\r\n",
		"escaped slash":      "GET /a%2fb HTTP/1.1\r\n" + host + "\r\n",
		"escaped twice":      "GET /%252e%252e/x HTTP/1.1\r\n" + host + "\r\n",
		"parameters":         "GET /a;b HTTP/1.1\r\n" + host + "\r\n",
		"escaped NUL":        "GET /a%00 HTTP/1.1\r\n" + host + "\r\n",
		"fragment":           "GET /a#b HTTP/1.1\r\n" + host + "\r\n",
		"two types":          "POST / HTTP/1.1\r\n" + host + "Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 0\r\n\r\n",
		"connection of host": "GET / HTTP/1.1\r\n" + host + "Connection: host\r\n\r\n",
	} {
		t.Run(why, func(t *testing.T) {
			c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
			if r, b := c.say(text).answer("GET"); r.StatusCode != 400 || !strings.Contains(b, `"bad_request"`) {
				t.Errorf("%s %s, want 400", r.Status, b)
			}
			c.ends()
		})
	}
	if n := got.all(); len(n) != 0 {
		t.Errorf("the server saw %q", n)
	}
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	if r, b := c.say("POST / HTTP/1.1\r\n" + host + "Content-Length: 4\r\n\r\nabcd").answer("POST"); r.StatusCode != 200 || b != "ok" {
		t.Errorf("control: %s %s", r.Status, b)
	}
}

// TestChunkedIsFramedAnew: extensions and trailers end here, and the body is the
// same.
func TestChunkedIsFramedAnew(t *testing.T) {
	w, own := inspecting(t, policyOf(t, strings.Replace(readOnlyPolicy, "read-only", "full", 1)))
	asked := make(chan string, 1)
	w.secureRaw("api.example.com:443", func(c net.Conn, br *bufio.Reader) {
		var text bytes.Buffer
		for !strings.HasSuffix(text.String(), "0\r\n\r\n") {
			b, err := br.ReadByte()
			if err != nil {
				break
			}
			text.WriteByte(b)
		}
		asked <- text.String()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	c.say("POST /x HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3;ext=\"a\"\r\nabc\r\n0\r\nX: y\r\nHost: evil\r\n\r\n")
	if r, _ := c.answer("POST"); r.StatusCode != 200 {
		t.Errorf("status %s", r.Status)
	}
	want := "POST /x HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
	if got := <-asked; got != want {
		t.Errorf("the server got %q, want %q", got, want)
	}
}

// TestOverridesAreStripped: fields that ask a server for another method, path or
// host than was judged do not reach it, in any spelling.
func TestOverridesAreStripped(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	asked := make(chan http.Header, 2)
	w.secureWeb(true, func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header }, "api.example.com:443")
	for _, h2 := range []bool{false, true} {
		req, _ := http.NewRequest("GET", "https://api.example.com/", nil)
		for name := range overrides {
			req.Header.Set(name, "DELETE")
		}
		req.Header["X_Http_Method_Override"] = []string{"DELETE"}
		req.Header["X.http.method.override"] = []string{"DELETE"}
		req.Header["X-Http+method~override"] = []string{"DELETE"}
		req.Header["Content_Length"] = []string{"5"}
		req.Header["X-Kept"] = []string{"yes"}
		resp, err := w.client(own, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		got := <-asked
		for name := range got {
			if overrides[name] || strings.ContainsAny(name, "_.+~") {
				t.Errorf("h2 %v: the server got %s", h2, name)
			}
		}
		if got.Get("X-Kept") != "yes" {
			t.Errorf("h2 %v: X-Kept is lost", h2)
		}
	}
}

// TestOverridesInTrailers: what is not to be among the fields of a header does not
// come behind the body either.
func TestOverridesInTrailers(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	asked := make(chan http.Header, 1)
	w.secureWeb(true, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		asked <- r.Trailer
	}, "api.example.com:443")
	req, _ := http.NewRequest("GET", "https://api.example.com/", io.MultiReader(strings.NewReader("body")))
	req.Trailer = http.Header{"X-Http-Method-Override": {"DELETE"}, "X.original.url": {"/admin"}, "X-Kept": {"yes"}}
	resp, err := w.client(own, true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := <-asked; len(got) != 1 || got.Get("X-Kept") != "yes" {
		t.Errorf("the server got trailers %v, want X-Kept alone", got)
	}
}

// TestOnlyHTTPPasses: an endpoint with rules takes nothing that cannot be read.
func TestOnlyHTTPPasses(t *testing.T) {
	w, _ := inspecting(t, policyOf(t, readOnlyPolicy), func(o *Options) { o.Limits.HeadTime = 100 * time.Millisecond })
	for _, first := range []string{"SSH-2.0-x\r\n", "\x00\x01\x02", "\x16\x03\x01\x00\x05hello", "", strings.Repeat("A", maxMethod+1) + " / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"} {
		c := w.saying("CONNECT api.example.com:443 HTTP/1.1\r\n\r\n" + first)
		if r, err := http.ReadResponse(c.br, &http.Request{Method: "CONNECT"}); err != nil || r.StatusCode != 200 {
			t.Fatalf("%q: %v, %v", first, r, err)
		}
		b, err := io.ReadAll(c.br)
		if len(b) > 0 && b[0] != 21 { // at most an alert
			t.Errorf("%q: %q, %v", first, b, err)
		}
	}
	if len(w.dialled) != 0 {
		t.Errorf("dialled %v", w.dialled)
	}
	e := w.event(func(e event.Event) bool { return e.StatusCode == string(protocolUnknown) })
	if e.DispositionID != event.Blocked {
		t.Errorf("event %+v", e)
	}
}

// TestPlainInTunnel: HTTP without TLS in a tunnel meets the same rules.
func TestPlainInTunnel(t *testing.T) {
	w, _ := inspecting(t, policyOf(t, strings.Replace(readOnlyPolicy, "443", "80", 1)))
	var got seen
	w.web(got.recording, "api.example.com:80")
	for _, front := range []func() (*raw, string){
		func() (*raw, string) { return w.raw(w.connect("api.example.com:80")), "" },
		func() (*raw, string) { return w.raw(w.open()), "http://api.example.com" },
		func() (*raw, string) { return w.raw(w.capture("api.example.com", "198.18.0.1:80")), "" },
	} {
		c, prefix := front()
		if r, b := c.say("GET " + prefix + "/%2e/a HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET"); r.StatusCode != 200 || b != "ok" {
			t.Errorf("GET: %s %s", r.Status, b)
		}
		r, b := c.say("POST " + prefix + "/b HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 0\r\n\r\n").answer("POST")
		var a answer
		if json.Unmarshal([]byte(b), &a) != nil || r.StatusCode != 403 || a.Error != policyDenied || a.Layer != "l7" {
			t.Errorf("POST: %s %s", r.Status, b)
		}
	}
	if g := got.all(); len(g) != 3 || g[0] != `GET api.example.com /a ""` {
		t.Errorf("the server saw %q", g)
	}
}

// TestCapturedTLS: a program that knows no proxy is read like any other.
func TestCapturedTLS(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	var got seen
	w.secureWeb(true, got.recording, "api.example.com:443")
	for _, name := range []string{"api.example.com", ""} {
		c := w.capture(name, "198.18.0.1:443")
		tc := tls.Client(c.TCPConn, &tls.Config{RootCAs: trusting(own), ServerName: "api.example.com"})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		r := w.raw(tc)
		if a, b := r.say("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET"); a.StatusCode != 200 || b != "ok" {
			t.Errorf("GET: %s %s", a.Status, b)
		}
		if a, _ := r.say("PUT / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 0\r\n\r\n").answer("PUT"); a.StatusCode != 403 {
			t.Errorf("PUT: %s, want 403", a.Status)
		}
	}
}

// TestSkipIsOpaque: tls: skip shows the server's own certificate.
func TestSkipIsOpaque(t *testing.T) {
	w, _ := inspecting(t, policyOf(t, `      - {host: api.example.com, port: 443, tls: skip}`))
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	c := w.raw(w.tunnelTLS(public(), "api.example.com:443", "api.example.com"))
	if r, _ := c.say("DELETE /a;b HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("DELETE"); r.StatusCode != 200 {
		t.Errorf("status %s", r.Status)
	}
}

// TestPathSelectors: one host, two endpoints with rules of their own.
func TestPathSelectors(t *testing.T) {
	w, own := inspecting(t, policyOf(t, `      - {host: api.example.com, port: 443, protocol: rest, path: "/v1/**", access: full, enforcement: enforce}
      - {host: api.example.com, port: 443, protocol: rest, path: "/v2/**", access: read-only, enforcement: enforce}`))
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	for path, status := range map[string]int{"/v1/a": 200, "/v2/a": 403, "/v1/../v2/a": 403, "/v2/%2e%2e/v1/a": 200, "/v3": 403} {
		c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
		r, _ := c.say("DELETE " + path + " HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("DELETE")
		if r.StatusCode != status {
			t.Errorf("DELETE %s: %s, want %d", path, r.Status, status)
		}
	}
}
