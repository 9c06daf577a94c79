package middleware

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sallyport/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chain makes the middlewares of a document's network_middlewares.
func chain(t *testing.T, doc string) *Chain {
	t.Helper()
	p, _, err := policy.Parse("p.yaml", []byte("version: 1\nnetwork_middlewares:\n"+doc))
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(p.Middlewares)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func request(body string) *Message {
	return &Message{Hook: Request, Target: Target{Method: "POST", Host: "a.example", Port: 443, Path: "/x"},
		Header: http.Header{"Content-Type": {"text/plain"}, "Content-Digest": {"sha-256=:x:"}}, Body: []byte(body)}
}

func TestRedactor(t *testing.T) {
	const (
		aws    = "AKIAIOSFODNN7EXAMPLE"
		github = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
		own    = `{mode: redact, patterns: [{name: card, regex: '\b[0-9]{16}\b'}, {name: host, regex: 'corp', replacement: '$0'}]}`
	)
	for _, c := range []struct {
		name, config, body, want string
		found                    int
		denied                   bool
	}{
		{"nothing to find", "{mode: redact}", "hello", "hello", 0, false},
		{"AWS", "{mode: redact}", "id=" + aws + "&x", "id=[redacted:aws-access-key]&x", 1, false},
		{"two of two kinds", "{}", github + " " + aws + " " + github, "[redacted:github-token] [redacted:aws-access-key] [redacted:github-token]", 2, false},
		{"private key", "{}", "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----\nb", "a\n[redacted:private-key]\nb", 1, false},
		{"private key without an end", "{}", "-----BEGIN PRIVATE KEY-----\nMIIB", "[redacted:private-key]", 1, false},
		{"JWT", "{}", `{"t":"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"}`, `{"t":"[redacted:jwt]"}`, 1, false},
		{"deny", "{mode: deny}", "x " + aws, "x " + aws, 0, true},
		{"deny without a reason", "{mode: deny}", "x", "x", 0, false},
		{"own patterns", own, "card 4111111111111111 at corp", "card [redacted:card] at $0", 2, false},
		{"own patterns are instead of the built-in ones", own, aws, aws, 0, false},
		{"own pattern for a part of a number", own, "41111111111111112", "41111111111111112", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := chain(t, "  m: {middleware: sallyport/regex, order: 1, config: "+c.config+"}\n").For("a.example")
			m := request(c.body)
			found, err := s.Run(t.Context(), m)
			if _, denied := errors.AsType[*Denied](err); denied != c.denied || !denied && err != nil {
				t.Fatalf("Run = %v, want a denial: %v", err, c.denied)
			}
			if string(m.Body) != c.want || len(found) != c.found {
				t.Errorf("Run gave %q with %v, want %q with %d findings", m.Body, found, c.want, c.found)
			}
			if changed := c.body != c.want; (m.Header.Get("Content-Digest") == "") != changed {
				t.Errorf("headers %v after a change: %v", m.Header, changed)
			}
		})
	}
}

// TestHooks: a redactor sees what it applies to, and nothing else is held for it.
func TestHooks(t *testing.T) {
	for _, c := range []struct {
		apply string
		want  map[Hook]int64
	}{
		{"[requests]", map[Hook]int64{Request: 100, Text: 100, Response: 0, Answer: 0}},
		{"[responses]", map[Hook]int64{Request: 0, Text: 0, Response: 100, Answer: 100}},
		{"[requests, responses]", map[Hook]int64{Request: 100, Text: 100, Response: 100, Answer: 100}},
	} {
		s := chain(t, "  m: {middleware: sallyport/regex, order: 1, config: {mode: deny, max_body_bytes: 100, patterns: [{name: n, regex: bad}], apply: "+c.apply+"}}\n").For("a.example")
		for h, want := range c.want {
			if got := s.Limit(t.Context(), h); got != want {
				t.Errorf("apply %s: Limit(%d) = %d, want %d", c.apply, h, got, want)
			}
			m := request("bad")
			m.Hook = h
			if _, err := s.Run(t.Context(), m); (err != nil) != (want > 0) {
				t.Errorf("apply %s: Run(%d) = %v, want a denial: %v", c.apply, h, err, want > 0)
			}
		}
	}
}

func TestOrderAndScope(t *testing.T) {
	c := chain(t, `
  b: {middleware: sallyport/regex, order: 2, config: {patterns: [{name: two, regex: one, replacement: two}]}}
  a: {middleware: sallyport/regex, order: 1, config: {patterns: [{name: one, regex: zero, replacement: one}]}}
  c: {middleware: sallyport/regex, order: 3, endpoints: {include: ["*.b.example"], exclude: [x.b.example]}, config: {patterns: [{name: three, regex: two, replacement: three}]}}
`)
	for host, want := range map[string]string{"a.example": "two", "a.b.example": "three", "x.b.example": "two"} {
		m := request("zero")
		found, err := c.For(host).Run(t.Context(), m)
		if err != nil || string(m.Body) != want || found[0].Middleware != "a" || found[1].Middleware != "b" {
			t.Errorf("%s: Run = %v, %v, body %q, want %q", host, found, err, m.Body, want)
		}
	}
	var none *Chain
	if s := none.For("a.example"); s != nil || s.Limit(t.Context(), Request) != 0 {
		t.Errorf("a nil chain has stages: %v", s)
	}
}

// TestFailures: what a middleware cannot see is refused, or passes untouched and is reported.
func TestFailures(t *testing.T) {
	gzip := func(m *Message) { m.Header.Set("Content-Encoding", "gzip") }
	for _, c := range []struct {
		name string
		with func(*Message)
		body string
	}{
		{"too large", func(m *Message) { m.TooLarge, m.Body = true, nil }, ""},
		{"longer than its limit", func(*Message) {}, strings.Repeat("x", 101)},
		{"encoded", gzip, "bad"},
	} {
		for _, open := range []bool{false, true} {
			word := map[bool]string{true: "fail_open", false: "fail_closed"}[open]
			t.Run(c.name+" "+word, func(t *testing.T) {
				s := chain(t, "  m: {middleware: sallyport/regex, order: 1, on_error: "+word+", config: {max_body_bytes: 100, patterns: [{name: n, regex: bad}]}}\n").For("a.example")
				m := request(c.body)
				c.with(m)
				found, err := s.Run(t.Context(), m)
				if _, failed := errors.AsType[*Failed](err); failed == open {
					t.Fatalf("Run = %v, want *Failed: %v", err, !open)
				}
				if open && (len(found) != 1 || found[0].Middleware != "m" || string(m.Body) != c.body && !m.TooLarge) {
					t.Errorf("Run = %v, body %q, want one finding and the same body", found, m.Body)
				}
			})
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s := chain(t, "  m: {middleware: sallyport/regex, order: 1, on_error: fail_open, config: {}}\n").For("a.example")
	if _, err := s.Run(ended, request("x")); err == nil {
		t.Error("Run of a request that has ended = nil, want an error even with fail_open")
	}
}

// TestEvents: each event is seen whole and goes on at once, however the stream is cut and its lines end.
func TestEvents(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         []string
	}{
		{"LF", "data: a\n\ndata: b\ndata: c\n\n", []string{"data: a\n\n", "data: b\ndata: c\n\n"}},
		{"CRLF", "data: a\r\n\r\n: x\r\n\r\n", []string{"data: a\r\n\r\n", ": x\r\n\r\n"}},
		{"CR", "data: a\r\rdata: b\r\r", []string{"data: a\r\r", "data: b\r\r"}},
		{"mixed", "data: a\n\r\ndata: b\r\n\n", []string{"data: a\n\r\n", "data: b\r\n\n"}},
		{"no end", "data: a\n\ndata: b", []string{"data: a\n\n", "data: b"}},
		{"nothing", "", nil},
		{"empty lines", "\n\ndata: a\n\n", []string{"\n", "\n", "data: a\n\n"}},
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader} {
			t.Run(c.name+" "+how, func(t *testing.T) {
				var got []string
				r := Events(io.NopCloser(wrap(strings.NewReader(c.stream))), 100, func(e []byte, _ bool) ([]byte, error) {
					got = append(got, string(e))
					return e, nil
				}, anyRoom)
				all, err := io.ReadAll(r)
				if err != nil || string(all) != c.stream {
					t.Errorf("read %q, %v, want %q", all, err, c.stream)
				}
				want := c.want
				if how == "bytes" && strings.Contains(c.stream, "\r") {
					got, want = []string{strings.Join(got, "")}, []string{strings.Join(want, "")} // a LF may come after its event
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
			})
		}
	}
	// The first event is there before the second one is sent.
	in, out := io.Pipe()
	r := Events(in, 100, func(e []byte, _ bool) ([]byte, error) { return []byte(strings.ToUpper(string(e))), nil }, anyRoom)
	go io.WriteString(out, "data: a\n\n")
	b := make([]byte, 100)
	if n, err := r.Read(b); err != nil || string(b[:n]) != "DATA: A\n\n" {
		t.Errorf("Read = %q, %v", b[:n], err)
	}
	r.Close()
}

func anyRoom(int64) error { return nil }

// TestEventsAreBounded: an event that is just as long as may be is seen, one that is longer is none that could be:
// it ends the stream, or passes as it is, and the next one is seen again. What is not complete is asked room for,
// which is given back.
func TestEventsAreBounded(t *testing.T) {
	const limit = 3 * eventRoom
	sized := func(n int) string { return "data: " + strings.Repeat("x", n-8) + "\n\n" }
	next := "data: next\n\n"
	for _, c := range []struct {
		name   string
		size   int
		refuse bool  // what is too large
		room   int64 // that there is
		want   string
		seen   []int
	}{
		{"as long as may be", limit, true, limit, sized(limit) + next, []int{limit, len(next)}},
		{"longer, refused", limit + 1, true, limit, "", []int{0}},
		{"far longer, refused", 100 * limit, true, limit, "", []int{0}},
		{"longer, let through", limit + 1, false, limit, sized(limit+1) + next, []int{0, len(next)}},
		{"far longer, let through", 100 * limit, false, limit, sized(100*limit) + next, []int{0, len(next)}},
		{"no room", limit, true, eventRoom, "", nil},
		{"no room is needed for little", eventRoom, true, 0, sized(eventRoom) + next, []int{eventRoom, len(next)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := strings.NewReader(sized(c.size) + next)
			var seen []int
			left, least := c.room, c.room
			r := Events(io.NopCloser(from), limit, func(e []byte, tooLarge bool) ([]byte, error) {
				if seen = append(seen, len(e)); tooLarge && c.refuse {
					return nil, errTooLarge
				}
				return e, nil
			}, func(n int64) error {
				if left-n < 0 {
					return errTooLarge
				}
				left -= n
				least = min(least, left)
				return nil
			})
			one := make([]byte, 1)
			n, _ := r.Read(one)
			if held := c.room - left; n > 0 && held != c.room-least {
				t.Errorf("%d bytes of room are taken for an event of which one byte is read, want %d", held, c.room-least)
			}
			got, err := io.ReadAll(r)
			got = append(one[:n], got...)
			r.Close()
			if string(got) != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, errTooLarge) {
				t.Errorf("%d bytes, %v, want %d", len(got), err, len(c.want))
			}
			if diff := cmp.Diff(c.seen, seen); diff != "" {
				t.Errorf("lengths of what was seen (-want +got):\n%s", diff)
			}
			if read := len(sized(c.size)) - from.Len(); c.want == "" && read > limit+4096 { // of bufio
				t.Errorf("%d bytes were read of an event that was refused", read)
			}
			if left != c.room || least == c.room && c.room > eventRoom {
				t.Errorf("%d bytes of room are left of %d, and at least %d were; want all of them given back", left, c.room, least)
			}
		})
	}
}

// FuzzEvents: nothing of a stream is lost, added or reordered, and no event but the last lacks its end.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: a\n\ndata: b\r\n\r\n: c\r\rrest"))
	f.Add([]byte("\n\r\n\r\r\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		for _, in := range []io.Reader{strings.NewReader(string(stream)), iotest.OneByteReader(strings.NewReader(string(stream)))} {
			large := len(stream)%2 > 0 // and then pass as they are
			limit := int64(len(stream)) + 1
			if large {
				limit = 3
			}
			r := Events(io.NopCloser(in), limit, func(e []byte, tooLarge bool) ([]byte, error) {
				if len(e) == 0 && !tooLarge || tooLarge && !large {
					t.Errorf("an event %q, too large: %v", e, tooLarge)
				}
				return e, nil
			}, anyRoom)
			if got, err := io.ReadAll(r); err != nil || string(got) != string(stream) {
				t.Fatalf("read %q, %v, want %q", got, err, stream)
			}
		}
	})
}

// FuzzRedactor: what a redactor has been through holds nothing that its patterns match, unless its own
// replacement makes it.
func FuzzRedactor(f *testing.F) {
	f.Add("AKIAIOSFODNN7EXAMPLE -----BEGIN PRIVATE KEY----- x")
	f.Add("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl sk-ant-0123456789012345678901")
	r, err := newRedactor(&policy.Redactor{Requests: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		m := request(body)
		found, err := r.handle(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if (found == nil) != (string(m.Body) == body) {
			t.Fatalf("%q became %q with %v", body, m.Body, found)
		}
		rest := strings.ReplaceAll(string(m.Body), "[redacted:", "\x00")
		for _, rule := range r.rules {
			if at := rule.re.FindString(rest); at != "" && !strings.Contains(at, "\x00") {
				t.Fatalf("%q became %q, which holds %q (%s)", body, m.Body, at, rule.name)
			}
		}
	})
}
