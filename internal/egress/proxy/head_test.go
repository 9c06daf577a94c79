package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestParseHead(t *testing.T) {
	for _, c := range []struct{ why, in, method, target, host string }{
		{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", "CONNECT", "a.example:443", "a.example:443"},
		{"CONNECT of HTTP/1.0 without Host", "CONNECT a.example:443 HTTP/1.0\r\n\r\n", "CONNECT", "a.example:443", ""},
		{"CONNECT without Host", "CONNECT a.example:443 HTTP/1.1\r\n\r\n", "CONNECT", "a.example:443", ""},
		{"absolute form", "GET http://a.example/x?y=%20 HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n", "GET", "http://a.example/x?y=%20", "a.example"},
		{"body with length", "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n", "POST", "http://a.example/", "a.example"},
		{"chunked body", "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: Chunked\r\n\r\n", "POST", "http://a.example/", "a.example"},
		{"space around a value", "GET http://a.example/ HTTP/1.1\r\nHost:  \t a.example \t\r\n\r\n", "GET", "http://a.example/", "a.example"},
		{"empty value", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX-Empty:\r\n\r\n", "GET", "http://a.example/", "a.example"},
		{"bytes above ASCII in a value", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX: \xc3\xbc\r\n\r\n", "GET", "http://a.example/", "a.example"},
		{"websocket", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n", "GET", "http://a.example/", "a.example"},
	} {
		t.Run(c.why, func(t *testing.T) {
			h, err := parseHead([]byte(c.in))
			if err != nil || string(h.method) != c.method || string(h.target) != c.target || string(h.host) != c.host {
				t.Errorf("parseHead = %s %s, host %q, %v", h.method, h.target, h.host, err)
			}
		})
	}
}

// TestParseHeadRefuses holds the ways in which a request can be read twice.
func TestParseHeadRefuses(t *testing.T) {
	const get = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"
	for why, in := range map[string]string{
		"CL and TE":                       get + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		"TE and CL":                       get + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
		"differing CL":                    get + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
		"repeated CL":                     get + "Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
		"list as CL":                      get + "Content-Length: 5, 5\r\n\r\n",
		"CL with a plus":                  get + "Content-Length: +5\r\n\r\n",
		"CL with a minus":                 get + "Content-Length: -5\r\n\r\n",
		"CL in hex":                       get + "Content-Length: 0x5\r\n\r\n",
		"empty CL":                        get + "Content-Length:\r\n\r\n",
		"CL with a space inside":          get + "Content-Length: 1 0\r\n\r\n",
		"CL that overflows":               get + "Content-Length: 18446744073709551617\r\n\r\n",
		"unknown TE":                      get + "Transfer-Encoding: gzip, chunked\r\n\r\n",
		"identity TE":                     get + "Transfer-Encoding: identity\r\n\r\n",
		"TE with vertical tab":            get + "Transfer-Encoding: \vchunked\r\n\r\n",
		"TE twice":                        get + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"TE quoted":                       get + "Transfer-Encoding: \"chunked\"\r\n\r\n",
		"TE with a parameter":             get + "Transfer-Encoding: chunked;x=1\r\n\r\n",
		"TE in HTTP/1.0":                  "POST http://a.example/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"space before the colon":          get + "Content-Length : 5\r\n\r\n",
		"tab before the colon":            get + "Transfer-Encoding\t: chunked\r\n\r\n",
		"bare LF ends a line":             "GET http://a.example/ HTTP/1.1\nHost: a.example\r\n\r\n",
		"bare LF in a header":             get + "X: a\nTransfer-Encoding: chunked\r\n\r\n",
		"bare LF ends the head":           get + "\n",
		"bare CR in a value":              get + "X: a\rb\r\n\r\n",
		"bare CR in the request line":     "GET http://a.example/\rx HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"CR CR LF":                        get + "X: a\r\r\n\r\n",
		"folded line":                     get + "X: a\r\n b\r\n\r\n",
		"folded line with a tab":          get + "X: a\r\n\tb\r\n\r\n",
		"folded first line":               "GET http://a.example/ HTTP/1.1\r\n Host: a.example\r\n\r\n",
		"NUL in a value":                  get + "X: a\x00b\r\n\r\n",
		"DEL in a value":                  get + "X: a\x7fb\r\n\r\n",
		"NUL in a name":                   get + "X\x00: a\r\n\r\n",
		"empty name":                      get + ": a\r\n\r\n",
		"no colon":                        get + "X\r\n\r\n",
		"brackets in a name":              get + "X[]: a\r\n\r\n",
		"bytes above ASCII in a name":     get + "X\xff: a\r\n\r\n",
		"two Hosts":                       get + "Host: b.example\r\n\r\n",
		"the same Host twice":             get + "hOsT: a.example\r\n\r\n",
		"no Host":                         "GET http://a.example/ HTTP/1.1\r\n\r\n",
		"HTTP/2 preface":                  "PRI * HTTP/2.0\r\n\r\n",
		"HTTP/0.9":                        "GET http://a.example/\r\n\r\n",
		"HTTP/1.2":                        "GET http://a.example/ HTTP/1.2\r\nHost: a.example\r\n\r\n",
		"version in lower case":           "GET http://a.example/ http/1.1\r\nHost: a.example\r\n\r\n",
		"two spaces":                      "GET  http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"space at the end":                "GET http://a.example/ HTTP/1.1 \r\nHost: a.example\r\n\r\n",
		"space at the start":              " GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"space in the target":             "GET http://a.example/a b HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"tab between":                     "GET\thttp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"NUL in the target":               "GET http://a.example/\x00 HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"UTF-8 in the target":             "GET http://a.example/ü HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"method with a slash":             "GET/ http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"no method":                       "http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"empty line first":                "\r\nGET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"h2c upgrade":                     get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
		"h2c settings alone":              get + "HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		"h2c among others":                get + "Upgrade: websocket, h2c\r\n\r\n",
		"unknown upgrade":                 get + "Upgrade: TLS/1.0\r\n\r\n",
		"unknown expectation":             get + "Expect: 200-ok\r\n\r\n",
		"Connection nominates Host":       get + "Connection: close, Host\r\n\r\n",
		"Connection nominates the length": get + "Connection: content-length\r\n\r\n",
		"Connection nominates TE":         get + "Connection: keep-alive,transfer-encoding\r\n\r\n",
		"many fields":                     get + strings.Repeat("X: y\r\n", maxFields) + "\r\n",
		"bytes after the head":            get + "\r\nGET",
		"no end":                          get,
		"empty":                           "",
	} {
		t.Run(why, func(t *testing.T) {
			h, err := parseHead([]byte(in))
			var refusal badRequest
			if !errors.As(err, &refusal) {
				t.Errorf("parseHead = %s %s, %v, want an error", h.method, h.target, err)
			}
		})
	}
}

func FuzzParseHead(f *testing.F) {
	f.Add([]byte("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Connection: keep-alive\r\n\r\n"))
	f.Add([]byte("POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"))
	f.Add([]byte("POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHead(b)
		if err != nil {
			return
		}
		// What passes here, net/http reads, and reads the same way.
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return // it may still refuse the target
		}
		if req.Method != string(h.method) || req.RequestURI != string(h.target) {
			t.Fatalf("%q: read as %s %s, net/http reads %s %s", b, h.method, h.target, req.Method, req.RequestURI)
		}
		if body := req.ContentLength != 0; body != h.body {
			t.Fatalf("%q: body %v, net/http says length %d", b, h.body, req.ContentLength)
		}
		if len(req.TransferEncoding) > 0 && (len(req.TransferEncoding) != 1 || req.TransferEncoding[0] != "chunked") {
			t.Fatalf("%q: transfer encoding %v", b, req.TransferEncoding)
		}
	})
}

func BenchmarkParseHead(b *testing.B) {
	in := []byte("CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nUser-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive\r\n\r\n")
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := parseHead(in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("net_http", func(b *testing.B) {
		b.ReportAllocs()
		r, br := bytes.NewReader(in), bufio.NewReader(nil)
		for b.Loop() {
			r.Reset(in)
			br.Reset(r)
			if _, err := http.ReadRequest(br); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestHostOfCapturedRequest: the name that is known already is a shortcut for
// itself only.
func TestHostOfCapturedRequest(t *testing.T) {
	known, unknown := target{captured: true, host: "a.example", port: 80}, target{captured: true, port: 80}
	six := target{captured: true, host: "2001:db8::1", port: 80}
	for _, tt := range []struct {
		why  string
		to   target
		host string
		want string // empty: refused
	}{
		{"the same", known, "a.example", "a.example"},
		{"the same, in capitals", known, "A.Example", "a.example"},
		{"another", known, "b.example", "b.example"},
		{"none for a known host", known, "", ""},
		{"none", unknown, "", ""},
		{"one where none is known", unknown, "a.example", "a.example"},
		{"IPv6", six, "[2001:db8::1]", "2001:db8::1"},
		{"IPv6 without brackets", six, "2001:db8::1", ""},
	} {
		t.Run(tt.why, func(t *testing.T) {
			in := "GET / HTTP/1.1\r\nHost: " + tt.host + "\r\n\r\n"
			r, err := tt.to.read([]byte(in), bufio.NewReader(strings.NewReader(in)))
			if (err == nil) != (tt.want != "") || err == nil && (r.host != tt.want || r.port != 80) {
				t.Errorf("Host %q is %q port %d, %v; want %q", tt.host, r.host, r.port, err, tt.want)
			}
		})
	}
}
