package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

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
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
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
