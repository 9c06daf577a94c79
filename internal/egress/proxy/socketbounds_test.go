package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	relay "sallyport/internal/egress/l7/websocket"
)

// TestMessagesAreBounded: a message that is too large, or for which there is no room
// among those of all, ends its websocket with the code for that, towards the server
// too, which gets none of it, and with one event. One just below passes.
func TestMessagesAreBounded(t *testing.T) {
	const most = 4 << 20
	for _, c := range []struct {
		room int64 // for all messages
		sent int
		code websocket.StatusCode
	}{
		{messageBudget, most, 0},
		{messageBudget, 32 * most, websocket.StatusMessageTooBig},
		{most / 2, most, websocket.StatusTryAgainLater},
	} {
		t.Run(fmt.Sprint(c.sent, " of ", c.room), func(t *testing.T) {
			w, own := inspecting(t, policyOf(t, socketPolicy))
			w.server.messages = relay.NewBudget(c.room)
			got := make(chan string, 2)
			w.secureWeb(false, func(rw http.ResponseWriter, r *http.Request) {
				s, err := websocket.Accept(rw, r, nil)
				if err != nil {
					return
				}
				defer s.CloseNow()
				s.SetReadLimit(-1)
				for err == nil {
					var b []byte
					if _, b, err = s.Read(r.Context()); err == nil {
						got <- fmt.Sprint(len(b))
					}
				}
				got <- fmt.Sprint("closed with ", int(websocket.CloseStatus(err)))
			}, "api.example.com:443")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, _, err := websocket.Dial(ctx, "wss://api.example.com/chat", &websocket.DialOptions{HTTPClient: w.client(own, false)})
			if err != nil {
				t.Fatal(err)
			}
			defer s.CloseNow()
			piece := bytes.Repeat([]byte("x"), 64<<10)
			before := allocated()
			to, err := s.Writer(ctx, websocket.MessageText)
			for n := 0; n < c.sent && err == nil; n += len(piece) {
				_, err = to.Write(piece)
			}
			if c.code == 0 {
				if to.Close(); receive(t, got) != fmt.Sprint(c.sent) {
					t.Error("a message just below the bound did not arrive")
				}
				return
			}
			_, _, err = s.Read(ctx)
			if code := websocket.CloseStatus(err); code != c.code {
				t.Errorf("%v, want %d", err, c.code)
			}
			if used := allocated() - before; used > 24*most {
				t.Errorf("%d bytes allocated, more than 24 times the bound", used)
			}
			if b := receive(t, got); b != "closed with 1001" {
				t.Errorf("the server: %s", b)
			}
			w.eventually("one event", func() bool {
				return slices.Equal(w.told(), []string{fmt.Sprintf("websocket_%d Allowed", c.code)})
			})
		})
	}
}

// TestEventsOfAStreamAreBounded: an event that a middleware cannot be shown, or for which there is no room among the
// bodies of all, ends the stream and is one event of ours; where the middleware fails open it passes. One just below
// is seen. Nothing is held afterwards.
func TestEventsOfAStreamAreBounded(t *testing.T) {
	const most = 64 << 10
	for _, c := range []struct {
		size int
		fail string
		held int64
		want []string // events
		ends bool
	}{
		{most, "fail_closed", 1 << 20, nil, false},
		{most + 1, "fail_closed", 1 << 20, []string{"body_too_large Blocked"}, true},
		{100 * most, "fail_closed", 1 << 20, []string{"body_too_large Blocked"}, true},
		{100 * most, "fail_open", 1 << 20, nil, false},
		{most, "fail_closed", most / 2, []string{"too_many_bodies Blocked"}, true},
	} {
		t.Run(fmt.Sprint(c.size, " ", c.fail, " ", c.held), func(t *testing.T) {
			versions(t, func(t *testing.T, h2 bool) {
				more := redactor(fmt.Sprintf("on_error: %s, config: {apply: [responses], max_body_bytes: %d}", c.fail, most))
				w, own := inspecting(t, policyWith(t, fullHost, more), func(o *Options) { o.Limits.Held = c.held })
				pad := strings.Repeat("x", c.size-len("data: "+secretText+"\n\n"))
				w.secureWeb(h2, func(rw http.ResponseWriter, _ *http.Request) {
					rw.Header().Set("Content-Type", "text/event-stream")
					io.WriteString(rw, "data: first\n\n"+"data: "+secretText+pad+"\n\n"+"data: last\n\n")
				}, "api.example.com:443")
				resp, err := w.client(own, h2).Get("https://api.example.com/")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				middle := "data: id [redacted:aws-access-key]." + pad + "\n\n"
				if c.fail == "fail_open" {
					middle = "data: " + secretText + pad + "\n\n"
				}
				want := "data: first\n\n"
				if !c.ends {
					want += middle + "data: last\n\n"
				}
				if string(b) != want || (err != nil) != c.ends {
					t.Errorf("%d bytes %.40q, %v; want %d, and a cut stream: %v", len(b), b, err, len(want), c.ends)
				}
				w.eventually("the events", func() bool { return slices.Equal(w.told(), c.want) })
				w.eventually("nothing is held", func() bool { return w.server.held.Load() == 0 })
			})
		})
	}
}
