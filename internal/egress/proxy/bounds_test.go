package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sallyport/internal/egress/inspect"
)

// ask is a request, for either version of HTTP.
type ask struct {
	method, path string
	fields       []string // name, value and so on
	body         string
	length       int  // that it declares; 0: none, and the body is in chunks
	head         bool // its head has no end, and nothing follows
	open         bool // its body has no end, and nothing follows
}

func (a ask) http1() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: api.example.com\r\n", a.method, a.path)
	for f := range slices.Chunk(a.fields, 2) {
		fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
	}
	switch {
	case a.head:
		return b.Bytes()
	case a.method == "GET":
		b.WriteString("\r\n")
	case a.length > 0:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", a.length, a.body)
	default:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(a.body), a.body)
	}
	return b.Bytes()
}

// http2 gives the frames of a request on a stream.
func (a ask) http2(stream uint32) []byte {
	var block, out bytes.Buffer
	e := hpack.NewEncoder(&block)
	fields := append([]string{":method", a.method, ":scheme", "https", ":authority", "api.example.com", ":path", a.path}, a.fields...)
	if a.length > 0 {
		fields = append(fields, "content-length", strconv.Itoa(a.length))
	}
	for f := range slices.Chunk(fields, 2) {
		e.WriteField(hpack.HeaderField{Name: strings.ToLower(f[0]), Value: f[1]})
	}
	const most = 16 << 10 // in a frame
	f := http2.NewFramer(&out, nil)
	head := block.Next(most)
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head, EndHeaders: block.Len() == 0 && !a.head, EndStream: a.method == "GET"})
	for block.Len() > 0 {
		head = block.Next(most)
		f.WriteContinuation(stream, block.Len() == 0 && !a.head, head)
	}
	for rest := []byte(a.body[:min(len(a.body), window)]); len(rest) > 0; { // more must not be sent
		n := min(len(rest), most)
		f.WriteData(stream, n == len(rest) && !a.open && len(a.body) <= window, rest[:n])
		rest = rest[n:]
	}
	return out.Bytes()
}

// speaker says requests one after the other, by one of the versions. What it says
// may not arrive: a connection can end in the middle.
type speaker interface {
	begin(ask) (say []byte)
	hear() (status int, body, end string)
	io.Writer
}

// speak connects.
func (w *world) speak(own *inspect.Authority, h2 bool) speaker {
	w.t.Helper()
	if h2 {
		return w.multiplex(own)
	}
	return single{w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))}
}

type single struct{ *raw }

func (single) begin(a ask) []byte { return a.http1() }

// hear tells of an end only if it comes after an answer that says so.
func (s single) hear() (status int, body, end string) {
	resp, body := s.answer("GET")
	if !resp.Close {
		return resp.StatusCode, body, "goes on"
	}
	s.ends()
	return resp.StatusCode, body, "closed"
}

// multiplex speaks HTTP/2 inside TLS by hand.
type multiplex struct {
	io.Writer
	in   *http2.Framer
	last uint32 // stream
}

// multiplex begins; what it sends may then fill the window that it was given.
func (w *world) multiplex(own *inspect.Authority) *multiplex {
	w.t.Helper()
	c := w.tunnelTLS(own, "api.example.com:443", "api.example.com", "h2")
	c.SetDeadline(time.Now().Add(patience))
	m := &multiplex{c, http2.NewFramer(c, c), 1}
	m.in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	io.WriteString(c, http2.ClientPreface)
	m.in.WriteSettings()
	for {
		switch f, err := m.in.ReadFrame(); f.(type) {
		case nil:
			w.t.Fatalf("the beginning of HTTP/2: %v", err)
		case *http2.WindowUpdateFrame:
			return m
		}
	}
}

func (m *multiplex) begin(a ask) []byte {
	m.last += 2
	return a.http2(m.last)
}

// hear is about the last request. Its stream alone ends where the connection goes
// on; after GOAWAY it does not.
func (m *multiplex) hear() (status int, body, end string) {
	for {
		f, err := m.in.ReadFrame()
		if err != nil {
			return status, body, "closed"
		}
		h := f.Header()
		if h.Type == http2.FrameGoAway {
			io.Copy(io.Discard, m.Writer.(io.Reader))
			return status, body, "goaway"
		}
		if h.StreamID != m.last {
			continue
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			return status, body, "reset"
		case *http2.MetaHeadersFrame:
			status, _ = strconv.Atoi(f.PseudoValue("status"))
		case *http2.DataFrame:
			body += string(f.Data())
		}
		if h.Type <= http2.FrameHeaders && h.Flags&http2.FlagDataEndStream != 0 {
			return status, body, "goes on"
		}
	}
}

// allocated is all that was allocated so far, what has been given up since too: a
// buffer that grows shows, whenever it is looked at.
func allocated() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.TotalAlloc)
}

// told are the events so far but those of what was allowed.
func (w *world) told() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.StatusCode != "" {
			list = append(list, fmt.Sprintf("%s %s", e.StatusCode, e.Disposition))
		}
	}
	return list
}

const boundsPolicy = `      - {host: api.example.com, port: 443, protocol: rest, path: /rest, access: read-only, enforcement: enforce}
      - {host: api.example.com, port: 443, protocol: json-rpc, path: /rpc, enforcement: enforce, json_rpc: {max_body_bytes: 32768}, rules: [{allow: {method: "*"}}]}
      - {host: api.example.com, port: 443, protocol: mcp, path: /mcp, enforcement: enforce, rules: [{allow: {method: ping}}, {allow: {method: tools/call}}]}
      - {host: api.example.com, port: 443, protocol: graphql, path: /graphql, enforcement: enforce, access: read-only}
      - {host: api.example.com, port: 443, protocol: graphql, path: /small, enforcement: enforce, access: read-only, graphql_max_body_bytes: 1024}
      - {host: api.example.com, port: 443, protocol: rest, path: /rewrite, access: full, enforcement: enforce, request_body_credential_rewrite: true}
      - {host: api.example.com, port: 443, protocol: rest, path: /sign, access: full, enforcement: enforce, credential_signing: "sigv4:body", signing_service: s3}`

// The bound of a head and of a body in TestBounds, and how many times that is
// sent. memory is how many times it may be allocated meanwhile, and kept; for a body
// of HTTP/2 its window comes to the first of them, in pieces that are joined.
const (
	bound  = 32 << 10
	times  = 60
	memory = 40
)

func repeated(n int, f func(i int) []string) (list []string) {
	for i := range n {
		list = append(list, f(i)...)
	}
	return list
}

func post(path, body string, fields ...string) ask {
	return ask{method: "POST", path: path, fields: append([]string{"Content-Type", "application/json"}, fields...), body: body, length: len(body)}
}
func rpc(path, method string) ask {
	return post(path, `{"jsonrpc":"2.0","id":1,"method":"`+method+`"}`)
}
func params(list string) ask {
	return post("/rpc", `{"jsonrpc":"2.0","id":1,"method":"get","params":[`+list+`]}`)
}
func call(pad int) ask {
	return post("/rpc", `{"jsonrpc":"2.0","id":1,"method":"get"`+strings.Repeat(" ", pad)+`}`)
}
func batch(path, one string, n int) ask { return post(path, "["+repeat(one+",", n-1)+one+"]") }
func graph(query string) ask            { return post("/graphql", `{"query":"`+query+`"}`) }
func tool(name string) ask {
	return post("/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"`+name+`"}}`)
}
func inSession(id string) ask { return post("/mcp", mcpPing, "Mcp-Session-Id", id) }

const mcpPing = `{"jsonrpc":"2.0","id":1,"method":"ping"}`

func (a ask) with(change func(*ask)) ask {
	change(&a)
	return a
}

// bounds are what a client can ask too much of. A request of HTTP/1 that is
// refused is the last of its connection; one of HTTP/2 is not, unless it says so.
// Beyond twice the bound of a head net/http refuses it, and makes no event.
var bounds = []struct {
	why         string
	over, under ask
	limits      func(*Limits)
	status      int
	reason      string // of the answer and of the event
	h2          string // where HTTP/2 differs: status, reason or nothing, and how its connection ends
}{
	{"head", get("X", pad(times*bound)), get("X", pad(bound-300)), none, 431, "head_too_large", "0 - goaway"},
	{"head, a little", get("X", pad(bound+1000)), get("X", pad(bound-300)), none, 431, "head_too_large", ""},
	{"head, twice", get("X", pad(2*bound), "Y", pad(1000)), get("X", pad(bound-300)), none, 431, "head_too_large", "431 -"},
	{"fields", get(repeated(140, named)...), get(repeated(120, named)...), none, 400, "bad_request", "431 head_too_large"},
	{"slow head", get("X", "y").with(func(a *ask) { a.head = true }), get(), hastyHead, 408, "head_timeout", "0 - goaway"},
	{"target", ask{method: "GET", path: "/rest?" + pad(17<<10)}, ask{method: "GET", path: "/rest?" + pad(15<<10)}, none, 400, "bad_request", ""},
	{"pairs of a query", pairs(513), pairs(512), none, 400, "bad_request", ""},
	{"body that says its length", call(times * bound), call(bound - 100), none, 413, "body_too_large", ""},
	{"body that does not", call(times * bound).with(unsized), call(bound - 100).with(unsized), none, 413, "body_too_large", ""},
	{"slow body", call(0).with(func(a *ask) { a.length++; a.open = true }), call(0), hasty, 408, "body_timeout", ""},
	{"bodies together", call(200), call(100), func(l *Limits) { l.Held = 200 }, 503, "too_many_bodies", ""},
	{"what is found in bodies together", params(repeat("1,", 599) + "1"), params(repeat("1,", 299) + "1"), func(l *Limits) { l.Held = 32 << 10 }, 503, "too_many_bodies", ""},
	{"levels of JSON", params(repeat("[", 63) + repeat("]", 63)), params(repeat("[", 62) + repeat("]", 62)), none, 413, "body_too_large", ""},
	{"names of params", params(`{"` + pad(12<<10) + `":[` + repeat("1,", 9000) + "1]}"), params(`{"` + pad(400) + `":[` + repeat("1,", 9000) + "1]}"), none, 413, "body_too_large", ""},
	{"calls of a batch", batch("/rpc", call(0).body, 65), batch("/rpc", call(0).body, 64), none, 413, "body_too_large", ""},
	{"name of a method", rpc("/rpc", pad(257)), rpc("/rpc", pad(256)), none, 403, "request_not_understood", ""},
	{"calls of a batch of MCP", batch("/mcp", mcpPing, 65), batch("/mcp", mcpPing, 64), none, 413, "body_too_large", ""},
	{"name of a tool", tool(pad(129)), tool(pad(128)), none, 403, "request_not_understood", ""},
	{"session of MCP", inSession(pad(513)), inSession(pad(512)), none, 403, "request_not_understood", ""},
	{"requests of a batch", batch("/graphql", `{"query":"{a}"}`, 17), batch("/graphql", `{"query":"{a}"}`, 16), none, 413, "body_too_large", ""},
	{"levels of GraphQL", graph(repeat("{a", 129) + repeat("}", 129)), graph(repeat("{a", 128) + repeat("}", 128)), none, 413, "body_too_large", ""},
	{"tokens of GraphQL", graph("{" + repeat("a ", 20000) + "}"), graph("{" + repeat("a ", 19000) + "}"), none, 413, "body_too_large", ""},
	{"body for placeholders", post("/rewrite", pad(256<<10+1)), post("/rewrite", pad(256<<10)), none, 413, "body_too_large", ""},
	{"body to be signed", post("/sign", pad(10<<20+1)), post("/sign", pad(400<<10)), none, 413, "body_too_large", ""},
	{"GraphQL in a URL", ask{method: "GET", path: "/small?query=%7Ba%7D&x=" + pad(1024)}, ask{method: "GET", path: "/small?query=%7Ba%7D&x=" + pad(1000)}, none, 413, "body_too_large", ""},
}

func get(fields ...string) ask { return ask{method: "GET", path: "/rest", fields: fields} }
func pairs(n int) ask {
	return ask{method: "GET", path: "/rest?" + strings.Repeat("a=b&", n-1) + "a=b"}
}
func pad(n int) string              { return strings.Repeat("x", n) }
func repeat(s string, n int) string { return strings.Repeat(s, n) }
func named(i int) []string          { return []string{fmt.Sprintf("X-%d", i), "y"} }
func unsized(a *ask)                { a.length = 0 }
func none(*Limits)                  {}

// hastyHead is for HTTP/2, too: there it is a connection that asks for nothing.
func hastyHead(l *Limits) { l.HeadTime, l.KeepAlive = 2*time.Second, 2*time.Second }

func hasty(l *Limits) {
	l.HeadTime, l.BodyTime = 2*time.Second, 2*time.Second
}

// TestBounds reaches each: the answer, the end of the connection, the one event,
// what the server sees of it, and what is allocated while many times the bound is
// sent. What is just below passes.
func TestBounds(t *testing.T) {
	for _, c := range bounds {
		t.Run(c.why, func(t *testing.T) {
			versions(t, func(t *testing.T, h2 bool) {
				w, own := inspecting(t, policyOf(t, boundsPolicy), func(o *Options) { c.limits(&o.Limits); o.Secrets = vault{} })
				var got seen
				w.secureWeb(h2, got.recording, "api.example.com:443")
				status, reason, end := c.status, c.reason, "closed"
				if h2 {
					end = "goes on"
					fmt.Sscan(c.h2, &status, &reason, &end)
				}
				s := w.speak(own, h2)
				text := s.begin(c.over)
				kept, before := heap(), allocated()
				s.Write(text)
				is, body, ended := s.hear()
				used, may := allocated()-before, int64(memory*bound)
				var want []string
				if reason != "-" {
					want = []string{reason + " Blocked"}
				}
				if is != status || ended != end || want != nil && !strings.Contains(body, `"reason":"`+reason+`"`) {
					t.Errorf("%d %s, %s; want %d %s, %s", is, body, ended, status, reason, end)
				}
				if told := w.told(); !slices.Equal(told, want) {
					t.Errorf("events %q, want %q", told, want)
				}
				if h2 && c.over.body != "" {
					may += 2 * window
				}
				if n := int64(len(c.over.body)); n <= 2*bound {
					may += 512 * n // it is read: a value takes more than its text
				}
				if used > may {
					t.Errorf("%d bytes allocated while %d were sent; %d are too many", used, len(text), may)
				}
				w.eventually("all of it but a little is given back", func() bool { return heap()-kept < bound*memory })
				runtime.KeepAlive(text)
				if len(got.all()) > 0 {
					t.Errorf("the server saw %.200q", got.all())
				}
				if ended != "goes on" {
					s = w.speak(own, h2)
				}
				s.Write(s.begin(c.under))
				if is, body, ended := s.hear(); is != 200 || ended != "goes on" || len(got.all()) != 1 || !strings.HasPrefix(got.all()[0], c.under.method+" api.example.com "+c.under.path) {
					t.Errorf("below the bound: %d %s, %s; the server saw %.200q", is, body, ended, got.all())
				}
				w.eventually("no body is held", func() bool { return w.server.held.Load() == 0 })
			})
		})
	}
}

// TestFramingIsBounded: what frames a chunked body, its extensions and trailers, is
// read over if it is short. Where it is long or has no end the client is told so and
// closed, whether the body is held or passes as it comes, and no server takes it for
// a whole one.
func TestFramingIsBounded(t *testing.T) {
	body := call(0).body
	chunk := fmt.Sprintf("%x", len(body))
	for _, c := range []struct {
		why, framed string // %s: what is long
		under, over int
	}{
		{"extension", chunk + ";x=%s\r\n" + body + "\r\n0\r\n\r\n", 1000, 8 << 10},
		{"extension without an end", chunk + ";x=%s\r\n" + body + "\r\n0\r\n\r\n", 0, times * bound},
		{"size", "%s" + chunk + "\r\n" + body + "\r\n0\r\n\r\n", 10, 100},
		{"trailer", chunk + "\r\n" + body + "\r\n0\r\nX: %s\r\n\r\n", 8 << 10, times * bound},
	} {
		for _, path := range []string{"/rpc", "/full"} {
			t.Run(c.why+" "+path, func(t *testing.T) {
				w, own := inspecting(t, policyOf(t, boundsPolicy+"\n      - {host: api.example.com, port: 443, protocol: rest, path: /full, access: full, enforcement: enforce}"))
				var got seen
				w.secureWeb(false, func(rw http.ResponseWriter, r *http.Request) {
					if b, err := io.ReadAll(r.Body); err == nil {
						got.add("%s", b)
					}
				}, "api.example.com:443")
				ask := func(n int) (*raw, *http.Response, string, int64) {
					text := []byte("POST " + path + " HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf(c.framed, repeat("0", n)))
					conn := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
					before := allocated()
					conn.Write(text)
					r, b := conn.answer("POST")
					return conn, r, b, allocated() - before
				}
				conn, r, b, used := ask(c.over)
				if r.StatusCode != 400 || !strings.Contains(b, `"bad_request"`) || used > memory*bound {
					t.Errorf("%s %s, %d bytes allocated; want 400", r.Status, b, used)
				}
				conn.ends()
				if told := w.told(); !slices.Equal(told, []string{"bad_request Blocked"}) || len(got.all()) > 0 {
					t.Errorf("events %q, want bad_request; the server got %q", told, got.all())
				}
				if _, r, b, _ := ask(c.under); r.StatusCode != 200 || !slices.Equal(got.all(), []string{body}) {
					t.Errorf("below the bound: %s %s; the server got %q", r.Status, b, got.all())
				}
			})
		}
	}
}
