package jsonrpc

import (
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

var (
	post   = policy.Request{Method: "POST"}
	asJSON = http.Header{"Content-Type": {"application/json"}}
)

func TestRead(t *testing.T) {
	type params = map[string]string
	for _, c := range []struct {
		name, body string
		want       []policy.Call
	}{
		{"call", `{"jsonrpc":"2.0","method":"eth_call","params":["0x1",{"to":"0x2"}],"id":1}`,
			[]policy.Call{{Method: "eth_call", Params: params{"0": "0x1", "1.to": "0x2"}}}},
		{"no params", `{"jsonrpc":"2.0","method":"a.b","id":"x"}`, []policy.Call{{Method: "a.b", Params: params{}}}},
		{"notification", `{"jsonrpc":"2.0","method":"drop","params":{"all":true,"n":1.0,"why":null}}`,
			[]policy.Call{{Method: "drop", Params: params{"all": "true", "n": "1", "why": "null"}}}},
		{"null id", `{"jsonrpc":"2.0","method":"a","id":null}`, []policy.Call{{Method: "a", Params: params{}}}},
		{"batch", `[{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"b","params":{}}]`,
			[]policy.Call{{Method: "a", Params: params{}}, {Method: "b", Params: params{}}}},
		{"dots in names", `{"jsonrpc":"2.0","method":"a","params":{"x.y":"1","x":{"y":"2","\\":"3"}}}`,
			[]policy.Call{{Method: "a", Params: params{`x\.y`: "1", "x.y": "2", `x.\\`: "3"}}}},
		{"names that are empty", `{"jsonrpc":"2.0","method":"a","params":{"x":"1","":{"x":"2","":"3"}}}`,
			[]policy.Call{{Method: "a", Params: params{"x": "1", ".x": "2", ".": "3"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read(post, asJSON, []byte(c.body), Options{})
			if err != nil {
				t.Fatalf("Read(%s) = %v, want calls", c.body, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Read(%s) differs (-want +got):\n%s", c.body, diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	const call = `{"jsonrpc":"2.0","method":"a","id":1}`
	with := func(name string, values ...string) http.Header {
		h := asJSON.Clone()
		h[name] = values
		return h
	}
	for _, c := range []struct {
		name string
		r    policy.Request
		h    http.Header
		body string
		want string
	}{
		{"no object", post, asJSON, `"a"`, "object"},
		{"version missing", post, asJSON, `{"method":"a","id":1}`, "2.0"},
		{"version as a number", post, asJSON, `{"jsonrpc":2.0,"method":"a","id":1}`, "2.0"},
		{"version 1", post, asJSON, `{"jsonrpc":"1.0","method":"a","id":1}`, "2.0"},
		{"no method", post, asJSON, `{"jsonrpc":"2.0","id":1}`, "method"},
		{"answer", post, asJSON, `{"jsonrpc":"2.0","id":1,"result":{}}`, "method"},
		{"call and answer", post, asJSON, `{"jsonrpc":"2.0","id":1,"method":"a","result":{}}`, `"result"`},
		{"method twice", post, asJSON, `{"jsonrpc":"2.0","method":"a","method":"b","id":1}`, "twice"},
		{"method in two cases", post, asJSON, `{"jsonrpc":"2.0","method":"a","Method":"b","id":1}`, "case"},
		{"method in another case only", post, asJSON, `{"jsonrpc":"2.0","Method":"b","id":1}`, "method"},
		{"unknown member", post, asJSON, `{"jsonrpc":"2.0","method":"a","id":1,"x":2}`, `"x"`},
		{"empty method", post, asJSON, `{"jsonrpc":"2.0","method":"","id":1}`, "0 bytes"},
		{"method is null", post, asJSON, `{"jsonrpc":"2.0","method":null,"id":1}`, "0 bytes"},
		{"method is a number", post, asJSON, `{"jsonrpc":"2.0","method":7,"id":1}`, "string"},
		{"NUL in method", post, asJSON, `{"jsonrpc":"2.0","method":"a\u0000b","id":1}`, "cannot be seen"},
		{"zero width in method", post, asJSON, `{"jsonrpc":"2.0","method":"a\u200b","id":1}`, "cannot be seen"},
		{"space behind method", post, asJSON, `{"jsonrpc":"2.0","method":"a ","id":1}`, "cannot be seen"},
		{"long method", post, asJSON, `{"jsonrpc":"2.0","method":"` + strings.Repeat("a", 257) + `","id":1}`, "257 bytes"},
		{"scalar params", post, asJSON, `{"jsonrpc":"2.0","method":"a","params":"x","id":1}`, "params"},
		{"id is an object", post, asJSON, `{"jsonrpc":"2.0","method":"a","id":{}}`, "id"},
		{"empty batch", post, asJSON, `[]`, "empty"},
		{"batch in a batch", post, asJSON, `[[` + call + `]]`, "object"},
		{"bad second", post, asJSON, `[` + call + `,{"jsonrpc":"2.0"}]`, "method"},
		{"GET", policy.Request{Method: "GET"}, asJSON, "", "POST"},
		{"query", policy.Request{Method: "POST", Query: map[string][]string{"Method": {"b"}}}, asJSON, call, "query"},
		{"no type", post, nil, call, "Content-Type"},
		{"two types", post, with("Content-Type", "application/json", "text/plain"), call, "Content-Type"},
		{"form", post, with("Content-Type", "application/x-www-form-urlencoded"), call, "form"},
		{"UTF-16", post, with("Content-Type", "application/json; charset=utf-16"), call, "charset"},
		{"gzip", post, with("Content-Encoding", "gzip"), call, "encoded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read(c.r, c.h, []byte(c.body), Options{})
			m, ok := errors.AsType[*jsonval.Malformed](err)
			if !ok || !strings.Contains(m.Detail, c.want) {
				t.Errorf("Read(%s) = %v, %v, want *Malformed with %q", c.body, got, err, c.want)
			}
		})
	}
}

// TestReadLimits: what is just below each bound is read, what is above it is refused and costs little.
func TestReadLimits(t *testing.T) {
	const call = `{"jsonrpc":"2.0","method":"a","id":1}`
	batch := func(n int) string { return "[" + strings.Repeat(call+",", n-1) + call + "]" }
	method := func(n int) string {
		return `{"jsonrpc":"2.0","method":"` + strings.Repeat("a", n) + `","id":1}`
	}
	// A name of so many bytes is in those of 10,000 scalars, each of at most 4 more.
	named := func(n int) string {
		return `{"jsonrpc":"2.0","method":"a","params":{"` + strings.Repeat("n", n) + `":[` + strings.Repeat("1,", 9999) + `1]},"id":1}`
	}
	for _, c := range []struct {
		name, body string
		o          Options
		ok         bool
	}{
		{"batch reached", batch(3), Options{MaxBatch: 3}, true},
		{"batch exceeded", batch(4), Options{MaxBatch: 3}, false},
		{"default batch reached", batch(64), Options{}, true},
		{"default batch exceeded", batch(65), Options{}, false},
		{"body reached", call, Options{MaxBody: int64(len(call))}, true},
		{"body exceeded", call, Options{MaxBody: int64(len(call)) - 1}, false},
		{"default body reached", call + strings.Repeat(" ", 64<<10-len(call)), Options{}, true},
		{"default body exceeded", call + strings.Repeat(" ", 64<<10-len(call)+1), Options{}, false},
		{"method reached", method(maxMethod), Options{}, true},
		{"method exceeded", method(maxMethod + 1), Options{}, false},
		{"names reached", named(maxNames/10000 - 10), Options{}, true},
		{"names exceeded", named(maxNames / 10000), Options{}, false},
		{"names far exceeded", named(40 << 10), Options{}, false},
		{"names of a batch exceeded", "[" + named(maxNames/20000) + "," + named(maxNames/20000) + "]", Options{}, false},
		{"names of empty lists exceeded", strings.ReplaceAll(named(20<<10), "1,", "[],"), Options{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Read(post, asJSON, []byte(c.body), c.o)
			runtime.ReadMemStats(&after)
			_, tooLarge := errors.AsType[*jsonval.TooLarge](err)
			_, malformed := errors.AsType[*jsonval.Malformed](err)
			if (tooLarge || malformed && strings.HasPrefix(c.name, "method")) == c.ok || c.ok && err != nil {
				t.Errorf("Read = %v, want success %v or *TooLarge", err, c.ok)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
				t.Errorf("Read of %d bytes made %d bytes of garbage, want less than 32 MiB", len(c.body), used)
			}
		})
	}
}

func TestResponses(t *testing.T) {
	for _, c := range []struct {
		body string
		ok   bool
	}{
		{`{"jsonrpc":"2.0","id":1,"result":{}}`, true},
		{`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}`, true},
		{`{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`, false},
		{`{"jsonrpc":"2.0","result":{}}`, false},
		{`{"jsonrpc":"2.0","id":1}`, false},
		{`{"jsonrpc":"2.0","id":1,"result":{},"Method":"tools/call"}`, false},
	} {
		got, err := Messages([]byte(c.body), Options{Responses: true})
		if (err == nil) != c.ok || c.ok && !got[0].Response {
			t.Errorf("Messages(%s) = %v, %v, want an answer: %v", c.body, got, err, c.ok)
		}
	}
}

// FuzzRead: whatever the body, there are calls with methods or an error of the two kinds.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","method":"a","params":[1,{"b.c":null}],"id":1}`,
		`[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"b","params":{"x":{"y":[true]}},"id":"2"}]`,
		`{"jsonrpc":"2.0","method":"a","Method":"b"}`, `{"jsonrpc":"2.0","id":1,"result":null}`, `[]`, `[[]]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		calls, err := Read(post, asJSON, body, Options{})
		if err != nil {
			_, malformed := errors.AsType[*jsonval.Malformed](err)
			_, large := errors.AsType[*jsonval.TooLarge](err)
			if !malformed && !large || calls != nil {
				t.Fatalf("Read(%q) = %v, %T %v", body, calls, err, err)
			}
			return
		}
		if len(calls) == 0 {
			t.Fatalf("Read(%q): no call and no error", body)
		}
		for _, c := range calls {
			if c.Method == "" || !strings.Contains(string(body), "method") && !strings.Contains(string(body), `\u`) {
				t.Fatalf("Read(%q) found %+v", body, c)
			}
		}
	})
}
