package proxy

import (
	"io"
	"net/http"
	"testing"
)

// TestIdleConnectionsHoldNoPlace: only requests are counted, so that a program
// may keep more connections than the limit.
func TestIdleConnectionsHoldNoPlace(t *testing.T) {
	w := newWorld(t, rules{"api.example.com:80": {}}, func(o *Options) { o.Limits.Requests = 1 })
	w.web(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "ok") }, "api.example.com:80")
	ask := func(c *client) int {
		r, _ := c.send("GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET")
		return r.StatusCode
	}
	var kept []*client
	for range 3 {
		c := w.open()
		if s := ask(c); s != 200 {
			t.Fatalf("status %d, want 200", s)
		}
		kept = append(kept, c)
		w.eventually("no place is held", func() bool { return len(w.server.requests) == 0 })
	}
	for _, c := range kept {
		if s := ask(c); s != 200 {
			t.Errorf("status %d on a connection that was idle, want 200", s)
		}
		w.eventually("no place is held", func() bool { return len(w.server.requests) == 0 })
	}
}
