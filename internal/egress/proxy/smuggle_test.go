package proxy

import (
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"
)

// frame is one of HTTP/2, RFC 9113 section 4.1, on stream 1 unless it is SETTINGS.
func frame(kind, flags byte, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	stream := uint32(1)
	if kind == 4 {
		stream = 0
	}
	return string(binary.BigEndian.AppendUint32(append(b, flags), stream)) + payload
}

// fields are header fields as HPACK literals that nothing is made of, RFC 7541
// section 6.2.2: names and values of any bytes, up to 126 of them.
func fields(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		b.WriteByte(0)
		for _, s := range pairs[i : i+2] {
			b.WriteByte(byte(len(s)))
			b.WriteString(s)
		}
	}
	return b.String()
}

// untilStreamEnds reads up to the end of the stream or of the connection.
func untilStreamEnds(c io.Reader) {
	for {
		var h [9]byte
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return
		}
		io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(h[:])>>8))
		ends := h[3] <= 1 && h[4]&1 != 0 // DATA or HEADERS with END_STREAM
		if ends || h[3] == 3 || h[3] == 7 {
			return // or RST_STREAM, or GOAWAY
		}
	}
}

// TestNothingIsSmuggledInStreams: no fields and no lengths of HTTP/2, by a client
// that writes its frames by hand, make a server see another request than the
// one that was judged.
func TestNothingIsSmuggledInStreams(t *testing.T) {
	const (
		data, headers = 0, 1
		endStream     = 1
		endHeaders    = 4
	)
	base := func(method, path string, more ...string) string {
		return fields(append([]string{":method", method, ":scheme", "https", ":authority", "api.example.com", ":path", path}, more...)...)
	}
	get := func(fields string) string { return frame(headers, endHeaders|endStream, fields) }
	post := func(body string, more ...string) string {
		return frame(headers, endHeaders, base("POST", "/public/a", more...)) + frame(data, endStream, body)
	}
	tries := map[string]string{
		"control":                 get(base("GET", "/public/a")),
		"control, body":           post("x=1"),
		"CRLF in a value":         get(base("GET", "/public/a", "x", "a\r\n\r\nGET /secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n")),
		"LF in a value":           get(base("GET", "/public/a", "x", "a\nx-original-url: /secret")),
		"NUL in a value":          get(base("GET", "/public/a", "x", "a\x00b")),
		"CRLF in a name":          get(base("GET", "/public/a", "x: a\r\n\r\nGET /secret HTTP/1.1\r\nx", "b")),
		"colon in a name":         get(base("GET", "/public/a", "x-original-url:", "/secret")),
		"upper case in a name":    get(base("GET", "/public/a", "X-Original-URL", "/secret")),
		"CRLF in the path":        get(base("GET", "/public/a HTTP/1.1\r\nHost: api.example.com\r\n\r\nGET /secret")),
		"space in the path":       get(base("GET", "/public/a /secret")),
		"CRLF in the method":      get(base("GET /secret HTTP/1.1\r\nHost: api.example.com\r\n\r\nGET", "/public/a")),
		"CRLF in the authority":   get(fields(":method", "GET", ":scheme", "https", ":authority", "api.example.com\r\n\r\nGET /secret HTTP/1.1\r\n", ":path", "/public/a")),
		"two paths":               get(base("GET", "/public/a", ":path", "/secret")),
		"a path behind fields":    get(fields(":method", "GET", ":scheme", "https", ":authority", "api.example.com", "x", "y", ":path", "/secret")),
		"no path":                 get(fields(":method", "GET", ":scheme", "https", ":authority", "api.example.com", "x-original-url", "/secret")),
		"unknown pseudo field":    get(base("GET", "/public/a", ":protocol", "websocket")),
		"another host":            get(base("GET", "/public/a", "host", "evil.example")),
		"chunked":                 post("0\r\n\r\n"+smuggled, "transfer-encoding", "chunked"),
		"chunked, by underscore":  post("0\r\n\r\n"+smuggled, "transfer_encoding", "chunked"),
		"length 0 and a body":     post(smuggled, "content-length", "0"),
		"length too short":        post("12345"+smuggled, "content-length", "5"),
		"length too long":         post("x", "content-length", "100"),
		"two lengths":             post(smuggled, "content-length", "0", "content-length", "56"),
		"connection":              get(base("GET", "/public/a", "connection", "upgrade", "upgrade", "h2c")),
		"a request in the body":   post(smuggled),
		"encoded dots":            get(base("GET", "/public/%2e%2e/secret")),
		"an absolute path":        get(base("GET", "https://api.example.com/secret")),
		"fields after the body":   frame(headers, endHeaders, base("POST", "/public/a")) + frame(data, 0, "x") + frame(headers, endHeaders|endStream, fields(":path", "/secret")),
		"CONTINUATION of another": frame(headers, endStream, base("GET", "/public/a")) + frame(data, 0, "x"),
	}
	for name, start := range map[string]func(*testing.T) recorder{"go": startGo, "nginx": startNginx, "node": startNode} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			w, own := inspecting(t, policyOf(t, publicPolicy))
			w.place(s.at, "api.example.com", "443")
			before := 0
			for why, text := range tries {
				c := w.tunnelTLS(own, "api.example.com:443", "api.example.com", "h2")
				c.SetDeadline(time.Now().Add(patience))
				io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+frame(4, 0, "")+text)
				untilStreamEnds(c)
				c.Close()
				w.eventually("nothing of it is on its way", func() bool { return len(w.server.inspections) == 0 })
				got := s.settled(w)[before:]
				before += len(got)
				for _, line := range got {
					if !strings.HasSuffix(line, " api.example.com /public/a") {
						t.Errorf("%s: the server saw %q", why, line)
					}
				}
				if strings.HasPrefix(why, "control") && len(got) != 1 || len(got) > 1 {
					t.Errorf("%s: the server saw %q", why, got)
				}
			}
			if all := strings.Join(s.seen(), "\n"); strings.Contains(all, "secret") || strings.Contains(all, "evil") {
				t.Errorf("the server saw\n%s", all)
			}
		})
	}
}
