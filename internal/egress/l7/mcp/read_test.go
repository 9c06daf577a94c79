package mcp

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

var post = policy.Request{Method: "POST"}

func header(pairs ...string) http.Header {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestRead(t *testing.T) {
	type params = map[string]string
	for _, c := range []struct {
		name, method string
		h            http.Header
		body         string
		want         []policy.Call
	}{
		{"tool", "POST", header("Mcp-Session-Id", "a-1", "MCP-Protocol-Version", "2025-11-25"),
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_web","arguments":{"q":"x","limit":{"n":3}},"_meta":{"progressToken":1}}}`,
			[]policy.Call{{Method: "tools/call", Tool: "search_web", Params: params{"name": "search_web", "arguments.q": "x", "arguments.limit.n": "3", "_meta.progressToken": "1"}}}},
		{"initialize", "POST", header(), `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}`,
			[]policy.Call{{Method: "initialize", Params: params{"protocolVersion": "2025-06-18"}}}},
		{"notification", "POST", header(), `{"jsonrpc":"2.0","method":"notifications/initialized"}`,
			[]policy.Call{{Method: "notifications/initialized", Params: params{}}}},
		{"answer", "POST", header(), `{"jsonrpc":"2.0","id":7,"result":{"action":"accept"}}`, []policy.Call{{Method: "response", Params: params{}}}},
		{"batch", "POST", header(), `[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"rm"}}]`,
			[]policy.Call{{Method: "ping", Params: params{}}, {Method: "tools/call", Tool: "rm", Params: params{"name": "rm"}}}},
		{"a method that is not known", "POST", header(), `{"jsonrpc":"2.0","id":1,"method":"x/new"}`, []policy.Call{{Method: "x/new", Params: params{}}}},
		{"headers that repeat", "POST", header("Mcp-Method", "tools/call", "Mcp-Name", "a"), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}`,
			[]policy.Call{{Method: "tools/call", Tool: "a", Params: params{"name": "a"}}}},
		{"header that repeats a URI", "POST", header("Mcp-Name", "file:///a"), `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a","name":"b"}}`,
			[]policy.Call{{Method: "resources/read", Params: params{"uri": "file:///a", "name": "b"}}}},
		{"stream", "GET", http.Header{"Accept": {"text/event-stream"}}, "", nil},
		{"end of the session", "DELETE", header("Mcp-Session-Id", "a-1"), "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read(policy.Request{Method: c.method}, c.h, []byte(c.body), Options{})
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
	const ping = `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	tool := func(params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + params + `}`
	}
	for _, c := range []struct {
		name, method string
		h            http.Header
		body         string
		want         string
	}{
		{"tools/call without an id", "POST", header(), `{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}`, "notification"},
		{"notification with an id", "POST", header(), `{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}`, "notification"},
		{"no params", "POST", header(), `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`, "params.name"},
		{"no name", "POST", header(), tool(`{"arguments":{}}`), "params.name"},
		{"name is null", "POST", header(), tool(`{"name":null}`), "params.name"},
		{"name is a list", "POST", header(), tool(`{"name":["a"]}`), "params.name"},
		{"params is a list", "POST", header(), tool(`["a"]`), "expected an object"},
		{"empty name", "POST", header(), tool(`{"name":""}`), "0 bytes"},
		{"slash in name", "POST", header(), tool(`{"name":"a/b"}`), "strict_tool_names"},
		{"long name", "POST", header(), tool(`{"name":"` + strings.Repeat("a", 129) + `"}`), "strict_tool_names"},
		{"line end in name", "POST", header(), tool(`{"name":"a\n"}`), "cannot be seen"},
		{"name twice", "POST", header(), tool(`{"name":"a","name":"b"}`), "twice"},
		{"name in two cases", "POST", header(), tool(`{"name":"a","Name":"b"}`), "case"},
		{"unknown member", "POST", header(), tool(`{"name":"a","tool":"b"}`), `"tool"`},
		{"method named like an answer", "POST", header(), `{"jsonrpc":"2.0","id":1,"method":"response"}`, "no method"},
		{"bad call in a batch", "POST", header(), `[` + ping + `,{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}]`, "notification"},
		{"PUT", "PUT", header(), ping, "PUT"},
		{"GET with a body", "GET", header(), ping, "no body"},
		{"DELETE with a body", "DELETE", header(), ping, "no body"},
		{"form", "POST", http.Header{"Content-Type": {"text/plain"}}, ping, "text/plain"},
		{"two sessions", "POST", header("Mcp-Session-Id", "a", "Mcp-Session-Id", "b"), ping, "Mcp-Session-Id"},
		{"space in the session", "GET", header("Mcp-Session-Id", "a b"), "", "Mcp-Session-Id"},
		{"version", "POST", header("Mcp-Protocol-Version", "latest"), ping, "Mcp-Protocol-Version"},
		{"another method in the header", "POST", header("Mcp-Method", "tools/call"), ping, "Mcp-Method"},
		{"another tool in the header", "POST", header("Mcp-Name", "b"), tool(`{"name":"a"}`), "Mcp-Name"},
		{"a tool in the header of a ping", "POST", header("Mcp-Name", "b"), ping, "Mcp-Name"},
		{"header of a batch", "POST", header("Mcp-Method", "ping"), `[` + ping + `,` + ping + `]`, "one call"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read(policy.Request{Method: c.method}, c.h, []byte(c.body), Options{})
			m, ok := errors.AsType[*jsonval.Malformed](err)
			if !ok || !strings.Contains(m.Detail, c.want) {
				t.Errorf("Read(%s) = %v, %v, want *Malformed with %q", c.body, got, err, c.want)
			}
		})
	}
}

// TestReadLimits: what is just below each bound is read, what is above it is refused.
func TestReadLimits(t *testing.T) {
	const ping = `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	x := func(n int) string { return strings.Repeat("x", n) }
	tool := func(n int) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + x(n) + `"}}`
	}
	batch := func(n int) string { return "[" + strings.Repeat(ping+",", n-1) + ping + "]" }
	for _, c := range []struct {
		name        string
		over, under string // the body
		h, least    http.Header
		o           Options
		large       bool // it is an error of *TooLarge
	}{
		{"tool", tool(129), tool(128), header(), header(), Options{}, false},
		{"loose tool", tool(257), tool(256), header(), header(), Options{LooseToolNames: true}, false},
		{"session", ping, ping, header("Mcp-Session-Id", x(513)), header("Mcp-Session-Id", x(512)), Options{}, false},
		{"version", ping, ping, header("Mcp-Protocol-Version", "2025-11-250"), header("Mcp-Protocol-Version", "2025-11-25"), Options{}, false},
		{"batch", batch(65), batch(64), header(), header(), Options{}, true},
		{"body", ping + strings.Repeat(" ", 64<<10+1-len(ping)), ping + strings.Repeat(" ", 64<<10-len(ping)), header(), header(), Options{}, true},
		{"body of the policy", ping + " ", ping, header(), header(), Options{MaxBody: int64(len(ping))}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Read(post, c.h, []byte(c.over), c.o)
			_, malformed := errors.AsType[*jsonval.Malformed](err)
			if _, large := errors.AsType[*jsonval.TooLarge](err); large != c.large || malformed == c.large {
				t.Errorf("Read above the bound = %v, want *TooLarge: %v", err, c.large)
			}
			if _, err := Read(post, c.least, []byte(c.under), c.o); err != nil {
				t.Errorf("Read below the bound = %v", err)
			}
		})
	}
}

func TestLooseToolNames(t *testing.T) {
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"files/read all"}}`)
	got, err := Read(post, header(), body, Options{LooseToolNames: true})
	if err != nil || got[0].Tool != "files/read all" {
		t.Errorf("Read with loose names = %v, %v, want the tool", got, err)
	}
}

// FuzzRead: whatever the body, a call of tools/call has the name of a tool.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":[1]}}}`,
		`[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":3,"result":{}}]`,
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}`,
		`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}`,
	} {
		f.Add([]byte(s), "tools/call")
	}
	f.Fuzz(func(t *testing.T, body []byte, repeated string) {
		calls, err := Read(post, header("Mcp-Method", repeated), body, Options{})
		if err != nil {
			_, malformed := errors.AsType[*jsonval.Malformed](err)
			_, large := errors.AsType[*jsonval.TooLarge](err)
			if !malformed && !large {
				t.Fatalf("Read(%q) = %v, %T %v", body, calls, err, err)
			}
			return
		}
		if len(calls) != 1 || calls[0].Method != repeated {
			t.Fatalf("Read(%q) = %v, want one call of %q", body, calls, repeated)
		}
		if (calls[0].Method == "tools/call") != strictTool.fits(calls[0].Tool) {
			t.Fatalf("Read(%q) = %+v", body, calls[0])
		}
	})
}
