package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"sallyport/internal/event"
	"sallyport/internal/policy"
)

const bodiesPolicy = `      - host: api.example.com
        port: 443
        protocol: json-rpc
        path: /rpc
        enforcement: enforce
        json_rpc: {max_body_bytes: 1024}
        rules: [{allow: {method: get_balance}}, {allow: {method: pay, params: {to: alice}}}]
      - host: api.example.com
        port: 443
        protocol: graphql
        path: /graphql
        enforcement: enforce
        access: read-only
      - host: api.example.com
        port: 443
        protocol: mcp
        path: /mcp
        enforcement: enforce
        rules: [{allow: {method: tools/call, tool: {any: [read_file]}}}, {allow: {method: tools/list}}]`

// TestBodiesAreRead: rules about what is in a body hold, and the server gets the
// bytes that were judged.
func TestBodiesAreRead(t *testing.T) {
	versions(t, func(t *testing.T, h2 bool) {
		w, own := inspecting(t, policyOf(t, bodiesPolicy))
		var got seen
		w.secureWeb(h2, got.recording, "api.example.com:443")
		client := w.client(own, h2)
		rpc := func(m string) string { return `{"jsonrpc": "2.0", "id": 1,  "method": "` + m + `"}` }
		pay := func(params string) string {
			return `{"jsonrpc":"2.0","id":1,"method":"pay","params":` + params + `}`
		}
		call := func(tool string) string {
			return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":{}}}`
		}
		for i, c := range []struct {
			path, body string
			status     int
			told       []event.Operation
		}{
			{"/rpc", rpc("get_balance"), 200, []event.Operation{{Method: "get_balance"}}},
			{"/rpc", rpc("send_money"), 403, []event.Operation{{Method: "send_money"}}},
			{"/rpc", "[" + rpc("get_balance") + "," + rpc("send_money") + "]", 403, []event.Operation{{Method: "get_balance"}, {Method: "send_money"}}},
			{"/rpc", `{"jsonrpc":"2.0","id":1,"method":"get_balance","method":"send_money"}`, 403, nil},
			{"/rpc", pay(`{"to":"alice"}`), 200, []event.Operation{{Method: "pay"}}},
			{"/rpc", pay(`{"to":"eve"}`), 403, []event.Operation{{Method: "pay"}}},
			{"/rpc", pay(`{"to":"eve","":{"to":"alice"}}`), 403, []event.Operation{{Method: "pay"}}},
			{"/rpc", `not JSON`, 403, nil},
			{"/rpc", rpc("get_" + strings.Repeat("x", 2000)), 413, nil},
			{"/graphql", `{"query":"query Who { me: viewer { login } }"}`, 200, []event.Operation{{Type: "query", Name: "Who", Fields: []string{"viewer"}}}},
			{"/graphql", `{"query":"mutation { deleteAll }"}`, 403, []event.Operation{{Type: "mutation", Fields: []string{"deleteAll"}}}},
			{"/graphql", `{"query":"{"}`, 403, nil},
			{"/mcp", call("read_file"), 200, []event.Operation{{Method: "tools/call", Tool: "read_file"}}},
			{"/mcp", call("delete_file"), 403, []event.Operation{{Method: "tools/call", Tool: "delete_file"}}},
			{"/mcp", rpc("tools/list"), 200, []event.Operation{{Method: "tools/list"}}},
			{"/mcp", rpc("resources/read"), 403, []event.Operation{{Method: "resources/read"}}},
			{"/other", `{}`, 403, nil},
		} {
			before := len(got.all())
			req, err := http.NewRequest("POST", "https://api.example.com"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			agent := fmt.Sprint("agent/", i)
			req.Header = http.Header{"Content-Type": {"application/json"}, "User-Agent": {agent}}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			answered, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%s %.60s: %s %s, want %d", c.path, c.body, resp.Status, answered, c.status)
			}
			e := w.event(func(e event.Event) bool { return e.HTTPRequest != nil && e.HTTPRequest.UserAgent == agent })
			if told, _ := e.Operations(); !reflect.DeepEqual(told, c.told) {
				t.Errorf("%s %.60s: the event tells of %+v, want %+v", c.path, c.body, told, c.told)
			}
			now := got.all()
			switch {
			case c.status != 200 && len(now) != before:
				t.Errorf("%s %.60s: the server saw %q", c.path, c.body, now[before:])
			case c.status == 200 && (len(now) != before+1 || now[before] != fmt.Sprintf("POST api.example.com %s %q", c.path, c.body)):
				t.Errorf("%s %.60s: the server saw %q", c.path, c.body, now[before:])
			}
		}
		w.eventually("no body is held", func() bool { return w.server.held.Load() == 0 })
	})
}

// TestExpectIsAnswered: a client that waits before it sends a body that is held
// is told to go on.
func TestExpectIsAnswered(t *testing.T) {
	w, own := inspecting(t, policyOf(t, bodiesPolicy))
	var got seen
	w.secureWeb(false, got.recording, "api.example.com:443")
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	body := `{"jsonrpc":"2.0","id":1,"method":"get_balance"}`
	c.say(fmt.Sprintf("POST /rpc HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body)))
	if r, err := http.ReadResponse(c.br, nil); err != nil || r.StatusCode != 100 {
		t.Fatalf("%v %v, want 100", r, err)
	}
	if r, b := c.say(body).answer("POST"); r.StatusCode != 200 || b != "ok" {
		t.Errorf("%s %s", r.Status, b)
	}
}

const socketPolicy = `      - host: api.example.com
        port: 443
        protocol: websocket
        path: /chat
        enforcement: enforce
        rules: [{allow: {method: GET}}, {allow: {method: WEBSOCKET_TEXT}}]
      - host: api.example.com
        port: 443
        protocol: websocket
        path: /listen
        enforcement: enforce
        access: read-only
      - host: api.example.com
        port: 443
        protocol: websocket
        path: /graph
        enforcement: enforce
        rules: [{allow: {operation_type: query}}, {allow: {method: GET}}]
      - {host: api.example.com, port: 443, protocol: rest, path: /rest, access: full, enforcement: enforce}`

// talking is a websocket server that says again what it hears.
func talking(t *testing.T) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, &websocket.AcceptOptions{Subprotocols: []string{"graphql-transport-ws"}, CompressionMode: websocket.CompressionNoContextTakeover})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				return
			}
		}
	}
}

func (w *world) socket(c *http.Client, path string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	w.t.Cleanup(cancel)
	conn, resp, err := websocket.Dial(ctx, "wss://api.example.com"+path, &websocket.DialOptions{
		HTTPClient: c, Subprotocols: []string{"graphql-transport-ws"}, CompressionMode: websocket.CompressionNoContextTakeover,
	})
	if err != nil && resp != nil {
		err = fmt.Errorf("%d: %w", resp.StatusCode, err)
	}
	if conn != nil {
		w.t.Cleanup(func() { conn.CloseNow() })
	}
	return conn, err
}

// TestWebSocket: an upgrade is judged, and each text message after it.
func TestWebSocket(t *testing.T) {
	w, own := inspecting(t, policyOf(t, socketPolicy))
	w.secureWeb(false, talking(t), "api.example.com:443")
	client := w.client(own, false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	c, err := w.socket(client, "/chat")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"hello", strings.Repeat("long ", 10000)} {
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		c.SetReadLimit(1 << 20)
		if _, b, err := c.Read(ctx); err != nil || string(b) != text {
			t.Errorf("%.20q came back as %.20q, %v", text, b, err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("closing: %v", err)
	}

	for path, send := range map[string]string{
		"/listen": "anything",
		"/graph":  `{"id":"1","type":"subscribe","payload":{"query":"mutation { deleteAll }"}}`,
	} {
		c, err := w.socket(client, path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := c.Write(ctx, websocket.MessageText, []byte(send)); err != nil {
			t.Fatal(err)
		}
		_, b, err := c.Read(ctx)
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != websocket.StatusPolicyViolation {
			t.Errorf("%s: %q, %v, want close 1008", path, b, err)
		}
	}
	e := w.event(func(e event.Event) bool { return e.DispositionID == event.Blocked })
	if e.HTTPRequest == nil || e.HTTPRequest.HTTPMethod != "WEBSOCKET_TEXT" {
		t.Errorf("event %+v", e)
	}
	e = w.event(func(e event.Event) bool {
		return e.DispositionID == event.Blocked && e.HTTPRequest.URL.Path == "/graph"
	})
	told, _ := e.Operations()
	if want := []event.Operation{{Type: "mutation", Fields: []string{"deleteAll"}}}; !reflect.DeepEqual(told, want) {
		t.Errorf("the event tells of %+v, want %+v", told, want)
	}

	c, err = w.socket(client, "/graph")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`{"type":"connection_init"}`, `{"id":"1","type":"subscribe","payload":{"query":"{ viewer }"}}`} {
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, b, err := c.Read(ctx); err != nil || string(b) != text {
			t.Errorf("%q came back as %q, %v", text, b, err)
		}
	}
	for path, want := range map[string][][]event.Operation{
		"/chat":  {nil}, // the first text that passes, and no other
		"/graph": {{{Type: "query", Fields: []string{"viewer"}}}},
	} {
		var told [][]event.Operation
		w.mu.Lock()
		for _, e := range w.events {
			if r := e.HTTPRequest; r != nil && e.DispositionID == event.Allowed && r.HTTPMethod == policy.MethodText && r.URL.Path == path {
				operations, _ := e.Operations()
				told = append(told, operations)
			}
		}
		w.mu.Unlock()
		if !reflect.DeepEqual(told, want) {
			t.Errorf("%s: the events tell of %+v, want %+v", path, told, want)
		}
	}
	if err := c.Write(ctx, websocket.MessageBinary, []byte{1}); err == nil {
		if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation && websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
			t.Errorf("binary: %v, want a close", err)
		}
	}
}

// TestUpgradeNeedsItsEndpoint: rules that read requests are no cover for a
// tunnel.
func TestUpgradeNeedsItsEndpoint(t *testing.T) {
	w, own := inspecting(t, policyOf(t, socketPolicy))
	w.secureWeb(false, talking(t), "api.example.com:443")
	client := w.client(own, false)
	for path, status := range map[string]string{"/rest": "403", "/none": "403"} {
		if _, err := w.socket(client, path); err == nil || !strings.HasPrefix(err.Error(), status) {
			t.Errorf("%s: %v, want %s", path, err, status)
		}
	}
	c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
	r, _ := c.say("GET /chat HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n").answer("GET")
	if r.StatusCode != 400 {
		t.Errorf("bad key: %s, want 400", r.Status)
	}
}

// TestPolicyChangeEndsWebSockets in the protocol's own words: one that is not allowed
// any more, and one whose messages would be read in another way. The same policy anew
// ends nothing.
func TestPolicyChangeEndsWebSockets(t *testing.T) {
	const endpoint = "      - {host: api.example.com, port: 443, protocol: websocket, enforcement: enforce, "
	for why, c := range map[string]struct {
		from, to string
		ends     int
	}{
		"the same":           {endpoint + "access: full}", endpoint + "access: full}", 0},
		"more than before":   {endpoint + "access: read-write}", endpoint + "access: full}", 0},
		"no binary messages": {endpoint + "access: full}", endpoint + "access: read-write}", 1},
		"operations":         {endpoint + "access: full}", endpoint + "rules: [{allow: {method: GET}}, {allow: {operation_type: query}}]}", 1},
		"not allowed":        {socketPolicy, bodiesPolicy, 1},
	} {
		t.Run(why, func(t *testing.T) {
			w, own := inspecting(t, policyOf(t, c.from))
			w.secureWeb(false, talking(t), "api.example.com:443")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := w.socket(w.client(own, false), "/chat")
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Write(ctx, websocket.MessageText, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Read(ctx); err != nil {
				t.Fatal(err)
			}
			w.server.SetDecider(policyOf(t, c.to))
			if n := w.server.CloseDisallowed(func(Query) bool { return true }); n != c.ends {
				t.Errorf("%d ended, want %d", n, c.ends)
			}
			if c.ends == 0 {
				return
			}
			if _, _, err := s.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
				t.Errorf("%v, want close 1008", err)
			}
		})
	}
}

// TestSizeOf: each text that is found in a body counts.
func TestSizeOf(t *testing.T) {
	long := pad(1000)
	for why, q := range map[string]policy.Request{
		"method":            {Calls: []policy.Call{{Method: long}}},
		"tool":              {Calls: []policy.Call{{Tool: long}}},
		"name of a param":   {Calls: []policy.Call{{Params: map[string]string{long: ""}}}},
		"param":             {Calls: []policy.Call{{Params: map[string]string{"": long}}}},
		"name of operation": {Operations: []policy.Operation{{Name: long}}},
		"hash":              {Operations: []policy.Operation{{Persisted: long}}},
		"field":             {Operations: []policy.Operation{{Fields: []string{long}}}},
	} {
		if n := sizeOf(&q); n < 1000 || n > 1100 {
			t.Errorf("%s: %d bytes, want about 1000", why, n)
		}
	}
}
