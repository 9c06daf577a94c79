package proxy

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"sallyport/internal/egress/inspect"
)

// breaks are servers that do not answer as they should, by hand.
var breaks = map[string]struct {
	serve  func(c net.Conn, head string)
	status int
	code   code
	reason string // of the event; the code if empty
}{
	"reset":        {func(c net.Conn, _ string) { reset(c) }, 502, upstreamInvalid, ""},
	"half-close":   {func(c net.Conn, _ string) { c.(*tls.Conn).CloseWrite(); io.Copy(io.Discard, c) }, 502, upstreamInvalid, ""},
	"silent":       {func(c net.Conn, _ string) { io.Copy(io.Discard, c) }, 504, upstreamTimeout, ""},
	"half a head":  {func(c net.Conn, _ string) { io.WriteString(c, "HTTP/1.1 200 O"); io.Copy(io.Discard, c) }, 504, upstreamTimeout, ""},
	"not HTTP":     {func(c net.Conn, _ string) { io.WriteString(c, "hello, this is no HTTP\r\n\r\n") }, 502, upstreamInvalid, ""},
	"endless head": {func(c net.Conn, _ string) { endless(c, "X: "+strings.Repeat("y", 1000)+"\r\n") }, 502, upstreamInvalid, "upstream_head"},
	"endless 1xx":  {func(c net.Conn, _ string) { interims(c) }, 502, upstreamInvalid, "upstream_interim"},
	"two framings": {func(c net.Conn, _ string) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
	}, 502, upstreamInvalid, ""},
	"unasked switch": {func(c net.Conn, _ string) {
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
	}, 502, upstreamInvalid, ""},
}

func reset(c net.Conn) {
	c.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0)
	c.(*tls.Conn).NetConn().Close()
}

func endless(c net.Conn, line string) {
	io.WriteString(c, "HTTP/1.1 200 OK\r\n")
	for {
		if _, err := io.WriteString(c, line); err != nil {
			return
		}
	}
}

func interims(c net.Conn) {
	for {
		if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"); err != nil {
			return
		}
	}
}

// hurried gives the servers little time whose answer to the agent is 504, and the others,
// for which it would be too little on a busy machine, all of it.
func hurried(status int) func(*Options) {
	return func(o *Options) {
		if status == http.StatusGatewayTimeout {
			o.Limits.Answer, o.Limits.HeadTime, o.Limits.Dial = time.Second, 3*time.Second, time.Second
		}
	}
}

// TestBrokenServers: whatever a server does, the agent gets an answer that says
// so, and an event says it to the person.
func TestBrokenServers(t *testing.T) {
	for why, b := range breaks {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			w, own := inspecting(t, policyOf(t, readOnlyPolicy), hurried(b.status))
			left := make(chan struct{}, 1)
			w.secureRaw("api.example.com:443", func(c net.Conn, br *bufio.Reader) {
				if r, err := http.ReadRequest(br); err == nil {
					b.serve(c, r.RequestURI)
					io.Copy(io.Discard, br)
					left <- struct{}{}
				}
			})
			c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
			c.say("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
			resp, body := c.final()
			var a answer
			if json.Unmarshal([]byte(body), &a) != nil || resp.StatusCode != b.status || a.Error != b.code {
				t.Errorf("%s %s, want %d %s", resp.Status, body, b.status, b.code)
			}
			c.ends()
			w.eventually("the server's connection has ended", func() bool { return len(left) == 1 })
			if told, want := w.told(), []string{cmp.Or(b.reason, string(b.code)) + " Allowed"}; !slices.Equal(told, want) { // it was, and failed
				t.Errorf("events %q, want %q", told, want)
			}
		})
	}
}

// final skips interim answers.
func (r *raw) final() (*http.Response, string) {
	r.t.Helper()
	for {
		resp, err := http.ReadResponse(r.br, &http.Request{Method: "GET"})
		if err != nil {
			r.t.Fatalf("reading the answer: %v", err)
		}
		if resp.StatusCode < 200 {
			continue
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			r.t.Fatalf("reading the body: %v", err)
		}
		return resp, string(b)
	}
}

// TestBrokenTLS: a server that does not prove who it is is never spoken to.
func TestBrokenTLS(t *testing.T) {
	stranger, err := inspect.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := stranger.Server("api.example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	misnamed, err := public().Server("www.example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	old := misnamed.Clone()
	old.MaxVersion = tls.VersionTLS11
	for why, c := range map[string]struct {
		cfg    *tls.Config
		code   code
		reason string
	}{
		"unknown authority": {unknown, upstreamCertificate, "upstream_certificate"},
		"another name":      {misnamed, upstreamCertificate, "upstream_certificate"},
		"TLS 1.1":           {old, upstreamInvalid, "upstream_tls"},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(why, func(t *testing.T) {
				w, own := inspecting(t, policyOf(t, readOnlyPolicy))
				var got seen
				w.secureServer(c.cfg, &http.Server{Handler: http.HandlerFunc(got.recording), ErrorLog: quiet()}, "api.example.com", "443")
				resp, err := w.client(own, h2).Get("https://api.example.com/")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				var a answer
				if json.NewDecoder(resp.Body).Decode(&a) != nil || resp.StatusCode != 502 || a.Error != c.code {
					t.Errorf("h2 %v: %s %+v, want 502 %s", h2, resp.Status, a, c.code)
				}
				if told, want := w.told(), []string{c.reason + " Allowed"}; !slices.Equal(told, want) {
					t.Errorf("h2 %v: events %q, want %q", h2, told, want)
				}
				if len(got.all()) > 0 {
					t.Errorf("the server saw %q", got.all())
				}
			})
		}
	}
}

// TestServerThatIsNoTLS ends in an answer, too.
func TestServerThatIsNoTLS(t *testing.T) {
	for why, serve := range map[string]func(*net.TCPConn){
		"plain":  func(c *net.TCPConn) { io.WriteString(c, "SSH-2.0-OpenSSH\r\n") },
		"closes": func(*net.TCPConn) {},
		"silent": func(c *net.TCPConn) { io.Copy(io.Discard, c) },
	} {
		t.Run(why, func(t *testing.T) {
			status := map[bool]int{true: 504, false: 502}[why == "silent"]
			w, own := inspecting(t, policyOf(t, readOnlyPolicy), hurried(status))
			w.origin(serve, "api.example.com:443")
			for _, h2 := range []bool{false, true} {
				resp, err := w.client(own, h2).Get("https://api.example.com/")
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != status {
					t.Errorf("h2 %v: %s, want %d", h2, resp.Status, status)
				}
			}
			event := map[bool]string{true: "upstream_timeout Allowed", false: "upstream_tls Allowed"}[why == "silent"]
			if told := w.told(); !slices.Equal(told, []string{event, event}) {
				t.Errorf("events %q, want %q for each", told, event)
			}
		})
	}
}

// TestCutAnswer: half an answer does not look like a whole one.
func TestCutAnswer(t *testing.T) {
	for framing, text := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		t.Run(framing, func(t *testing.T) {
			w, own := inspecting(t, policyOf(t, readOnlyPolicy))
			w.secureRaw("api.example.com:443", func(c net.Conn, br *bufio.Reader) {
				if _, err := http.ReadRequest(br); err == nil {
					io.WriteString(c, text)
				}
			})
			resp, err := w.client(own, false).Get("https://api.example.com/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("the body ended well after %q", b)
			}
		})
	}
}

// TestCutAnswerByTheEnd: a client of HTTP/1.0 knows the end of an answer by that
// of the connection, and must not be told that a cut one is whole.
func TestCutAnswerByTheEnd(t *testing.T) {
	for text, whole := range map[string]bool{"4\r\nhalf\r\n": false, "4\r\nhalf\r\n0\r\n\r\n": true} {
		w, own := inspecting(t, policyOf(t, readOnlyPolicy))
		w.secureRaw("api.example.com:443", func(c net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err == nil {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+text)
			}
		})
		c := w.tunnelTLS(own, "api.example.com:443", "api.example.com")
		io.WriteString(c, "GET / HTTP/1.0\r\nHost: api.example.com\r\n\r\n")
		if b, err := io.ReadAll(c); (err == nil) != whole || whole && !strings.HasSuffix(string(b), "half") {
			t.Errorf("whole %v: %q, %v", whole, b, err)
		}
	}
}

// TestCutStream: nor does a stream that is reset look whole.
func TestCutStream(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	w.secureWeb(true, func(rw http.ResponseWriter, _ *http.Request) {
		io.WriteString(rw, "half")
		rw.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, "api.example.com:443")
	resp, err := w.client(own, true).Get("https://api.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil || string(b) != "half" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestBrokenStreams is the same for servers that speak HTTP/2.
func TestBrokenStreams(t *testing.T) {
	preface := func(br *bufio.Reader) bool {
		b := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		_, err := io.ReadFull(br, b)
		return err == nil
	}
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for why, c := range map[string]struct {
		serve  func(net.Conn, *bufio.Reader)
		status int
		reason string // upstream_invalid if empty
	}{
		"closes": {func(net.Conn, *bufio.Reader) {}, 502, ""},
		"invalid frame": {func(c net.Conn, br *bufio.Reader) {
			io.WriteString(c, settings+"\x00\x00\x05\x01\x04\x00\x00\x00\x02hello")
			io.Copy(io.Discard, br)
		}, 502, ""},
		"goaway": {func(c net.Conn, br *bufio.Reader) {
			io.WriteString(c, settings+"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02")
			io.Copy(io.Discard, br)
		}, 502, ""},
		"silent": {func(c net.Conn, br *bufio.Reader) { io.WriteString(c, settings); io.Copy(io.Discard, br) }, 504, "upstream_timeout"},
		"HTTP/1": {func(c net.Conn, _ *bufio.Reader) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, 502, ""},
		"half a frame": {func(c net.Conn, br *bufio.Reader) {
			io.WriteString(c, settings+"\x00\x10\x00\x01\x04\x00\x00\x00\x01\x88")
			c.(*tls.Conn).CloseWrite()
			io.Copy(io.Discard, br)
		}, 502, ""},
		"endless head": {func(c net.Conn, br *bufio.Reader) {
			io.WriteString(c, settings)
			block := fields(slices.Repeat([]string{"x", strings.Repeat("y", 100)}, 100)...)
			begun := frame(1, 0, fields(":status", "200")+block)
			for err := awaitHeaders(c, br); err == nil; begun = frame(9, 0, block) {
				_, err = io.WriteString(c, begun)
			}
		}, 502, ""},
		"endless 1xx": {func(c net.Conn, br *bufio.Reader) {
			io.WriteString(c, settings)
			for err := awaitHeaders(c, br); err == nil; {
				_, err = io.WriteString(c, frame(1, 4, fields(":status", "103", "link", "</a>")))
			}
		}, 502, "upstream_interim"},
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			w, own := inspecting(t, policyOf(t, readOnlyPolicy), hurried(c.status))
			w.secureRaw("api.example.com:443", func(conn net.Conn, br *bufio.Reader) {
				if preface(br) {
					c.serve(conn, br)
				}
			}, "h2")
			resp, err := w.client(own, true).Get("https://api.example.com/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			reason := cmp.Or(c.reason, string(upstreamInvalid))
			if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != c.status || !strings.Contains(string(b), `"reason":"`+reason+`"`) {
				t.Errorf("%s %s %v, want %d %s", resp.Status, b, err, c.status, reason)
			}
			if told, want := w.told(), []string{reason + " Allowed"}; !slices.Equal(told, want) { // it was, and failed
				t.Errorf("events %q, want %q", told, want)
			}
		})
	}
}

// awaitHeaders reads up to the HEADERS of a request, which is on stream 1.
func awaitHeaders(c io.Writer, br io.Reader) error {
	in := http2.NewFramer(c, br)
	for {
		f, err := in.ReadFrame()
		if err != nil || f.Header().Type == http2.FrameHeaders {
			return err
		}
	}
}

// TestHeadDoesNotWaitForTheRest: a part of a chunk that cannot be passed on yet does not
// keep the head back.
func TestHeadDoesNotWaitForTheRest(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	came := make(chan struct{})
	w.secureRaw("api.example.com:443", func(c net.Conn, br *bufio.Reader) {
		http.ReadRequest(br)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5")
		select {
		case <-came:
			io.WriteString(c, "\r\nhello\r\n0\r\n\r\n")
		case <-t.Context().Done():
		}
	})
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	resp, err := http.ReadResponse(c.say("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n").br, nil)
	if err != nil {
		t.Fatalf("the head: %v", err)
	}
	close(came)
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello" {
		t.Errorf("the body: %q, %v", b, err)
	}
}

// TestOneStreamIsBroken: a server that resets one request has not ended the others
// on its connection, and neither does the proxy when it tries again.
func TestOneStreamIsBroken(t *testing.T) {
	w, own := inspecting(t, policyOf(t, readOnlyPolicy))
	let := make(chan struct{})
	w.secureWeb(true, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(rw, "begun")
		rw.(http.Flusher).Flush()
		select {
		case <-let:
		case <-r.Context().Done():
		}
		io.WriteString(rw, ", ended")
	}, "api.example.com:443")
	client := w.client(own, true)
	resp, err := client.Get("https://api.example.com/long")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if cut, err := client.Get("https://api.example.com/cut"); err != nil || cut.StatusCode != 502 {
		t.Errorf("the one: %v, %v, want 502", cut, err)
	} else {
		cut.Body.Close()
	}
	close(let)
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "begun, ended" {
		t.Errorf("the other: %q, %v", b, err)
	}
}
