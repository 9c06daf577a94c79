package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// echo is a real WebSocket server: it sends back what it gets and says what that was.
func echo(mode websocket.CompressionMode, got chan<- string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: mode, CompressionThreshold: 1, Subprotocols: []string{"chat"}, InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(64 << 20)
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil {
				got <- fmt.Sprintf("closed with %d", websocket.CloseStatus(err))
				return
			}
			got <- string(b)
			if err := c.Write(r.Context(), typ, b); err != nil {
				return
			}
		}
	})
}

func dial(t *testing.T, ctx context.Context, url string, mode websocket.CompressionMode) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{CompressionMode: mode, CompressionThreshold: 1, Subprotocols: []string{"other", "chat"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(64 << 20)
	return c
}

var modes = []websocket.CompressionMode{websocket.CompressionDisabled, websocket.CompressionContextTakeover, websocket.CompressionNoContextTakeover}

// TestRealPeers: a client and a server that know nothing of the relay, with and without compression.
func TestRealPeers(t *testing.T) {
	long := strings.Repeat("long text ", 30000)
	for _, client := range modes {
		for _, server := range modes {
			t.Run(fmt.Sprintf("client %d, server %d", client, server), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				got := make(chan string, 16)
				replace := func(text []byte) ([]byte, error) {
					return bytes.ReplaceAll(text, []byte("PLACEHOLDER"), []byte("the secret")), nil
				}
				url, results := relayed(t, ctx, echo(server, got), Options{Binary: true, Judge: replace})
				c := dial(t, ctx, url, client)
				if c.Subprotocol() != "chat" {
					t.Errorf("Subprotocol = %q, want chat", c.Subprotocol())
				}
				for _, m := range []struct {
					typ        websocket.MessageType
					send, want string
				}{
					{websocket.MessageText, "hello", "hello"}, {websocket.MessageText, "", ""},
					{websocket.MessageText, "PLACEHOLDER!", "the secret!"}, {websocket.MessageText, long, long},
					{websocket.MessageText, long, long}, {websocket.MessageBinary, "\xff\x00" + long, "\xff\x00" + long},
				} {
					if err := c.Write(ctx, m.typ, []byte(m.send)); err != nil {
						t.Fatal(err)
					}
					typ, back, err := c.Read(ctx)
					if err != nil || typ != m.typ || string(back) != m.want {
						t.Fatalf("echo of %.20q = %v, %.20q, %v", m.send, typ, back, err)
					}
					if at := <-got; at != m.want {
						t.Fatalf("the server got %.20q, want %.20q", at, m.want)
					}
				}
				if err := c.Close(websocket.StatusNormalClosure, "done"); err != nil {
					t.Errorf("Close = %v, want a clean end", err)
				}
				if end := <-got; end != "closed with 1000" {
					t.Errorf("the server: %s, want 1000", end)
				}
				if r := wait(t, results); r.err != nil || r.stats.Client.Messages != 6 || r.stats.Server.Messages != 6 {
					t.Errorf("Relay = %+v, %v, want 6 messages each way", r.stats, r.err)
				}
			})
		}
	}
}

// TestForbidden: the message that is refused does not reach the server, and both sides are told.
func TestForbidden(t *testing.T) {
	forbid := func(text []byte) ([]byte, error) {
		if bytes.Contains(text, []byte("drop")) {
			return nil, errors.New("the rules of chat do not allow this message")
		}
		return text, nil
	}
	for _, mode := range modes {
		t.Run(fmt.Sprintf("compression %d", mode), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got := make(chan string, 16)
			url, results := relayed(t, ctx, echo(mode, got), Options{Judge: forbid})
			c := dial(t, ctx, url, mode)
			if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, b, err := c.Read(ctx); err != nil || string(b) != "hello" {
				t.Fatalf("Read = %q, %v, want the allowed message", b, err)
			}
			if err := c.Write(ctx, websocket.MessageText, []byte("drop everything")); err != nil {
				t.Fatal(err)
			}
			_, _, err := c.Read(ctx)
			told, ok := errors.AsType[websocket.CloseError](err)
			if !ok || told.Code != Policy || told.Reason != "the rules of chat do not allow this message" {
				t.Errorf("the client was told %v, want 1008 and the sentence", err)
			}
			if a, b := <-got, <-got; a != "hello" || b != "closed with 1001" {
				t.Errorf("the server got %q and %q, want hello and a Close", a, b)
			}
			if why, ok := errors.AsType[*CloseError](wait(t, results).err); !ok || why.Code != Policy {
				t.Errorf("Relay = %v, want a *CloseError with 1008", why)
			}
		})
	}
}

func TestBinaryForbidden(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan string, 16)
	url, results := relayed(t, ctx, echo(websocket.CompressionDisabled, got), Options{Judge: allow})
	c := dial(t, ctx, url, websocket.CompressionDisabled)
	if err := c.Write(ctx, websocket.MessageBinary, []byte("secret bytes")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != Policy {
		t.Errorf("Read = %v, want 1008", err)
	}
	if a := <-got; a != "closed with 1001" {
		t.Errorf("the server got %q, want a Close only", a)
	}
	wait(t, results)
}

// TestEndedByContext: a new policy ends the connection with its own code; the server learns that it ended.
func TestEndedByContext(t *testing.T) {
	for _, c := range []struct {
		name  string
		cause error
		code  websocket.StatusCode
	}{{"its own words", &CloseError{Policy, "the policy has changed"}, Policy}, {"no words", nil, GoingAway}} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			relayCtx, end := context.WithCancelCause(ctx)
			got := make(chan string, 16)
			url, results := relayed(t, relayCtx, echo(websocket.CompressionDisabled, got), Options{Judge: allow})
			conn := dial(t, ctx, url, websocket.CompressionDisabled)
			if err := conn.Write(ctx, websocket.MessageText, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := conn.Read(ctx); err != nil {
				t.Fatal(err)
			}
			end(c.cause)
			if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != c.code {
				t.Errorf("Read = %v, want %d", err, c.code)
			}
			<-got
			if a := <-got; a != "closed with 1001" { // the client's reasons are not the server's business
				t.Errorf("the server got %q, want 1001", a)
			}
			if r := wait(t, results); r.err == nil {
				t.Error("Relay = nil, want the reason")
			}
		})
	}
}

// TestServerMessages: with Answer, what the server says is seen and can be changed; a lie about the extension
// does not get past it.
func TestServerMessages(t *testing.T) {
	scrub := func(_ bool, text []byte) ([]byte, error) {
		return bytes.ReplaceAll(text, []byte("the secret"), []byte("[redacted]")), nil
	}
	for _, mode := range modes {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		url, results := relayed(t, ctx, echo(mode, make(chan string, 16)), Options{Judge: allow, Answer: scrub, Binary: true})
		c := dial(t, ctx, url, mode)
		for _, typ := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary, websocket.MessageText} {
			if err := c.Write(ctx, typ, []byte("it is the secret, the secret, the secret")); err != nil {
				t.Fatal(err)
			}
			if got, b, err := c.Read(ctx); err != nil || got != typ || string(b) != "it is [redacted], [redacted], [redacted]" {
				t.Fatalf("Read = %v %q, %v, want it scrubbed", got, b, err)
			}
		}
		c.Close(websocket.StatusNormalClosure, "")
		wait(t, results)
	}
}

// TestManyAtOnce: both ways are busy while pings pass between.
func TestManyAtOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan string, 4096)
	url, results := relayed(t, ctx, echo(websocket.CompressionContextTakeover, got), Options{Judge: allow})
	c := dial(t, ctx, url, websocket.CompressionContextTakeover)
	const n = 300
	go func() {
		for i := range n {
			if c.Write(ctx, websocket.MessageText, fmt.Appendf(nil, "message %d", i)) != nil {
				return
			}
			if i%50 == 0 {
				c.Ping(ctx)
			}
		}
	}()
	for i := range n {
		if _, b, err := c.Read(ctx); err != nil || string(b) != fmt.Sprintf("message %d", i) {
			t.Fatalf("message %d = %q, %v", i, b, err)
		}
	}
	c.CloseNow()
	if r := wait(t, results); r.err == nil || r.stats.Client.Messages != n {
		t.Errorf("Relay = %+v, %v, want %d messages and a client that broke off", r.stats, r.err, n)
	}
}
