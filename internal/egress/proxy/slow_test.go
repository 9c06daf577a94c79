package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSlowBodiesAreNotCut: what moves goes on, however long it takes: no time that is
// for a head, for the beginning of an answer or for a pause between requests is left
// over from before. The body of a request, of an answer by its length and of one in
// chunks, each with pauses that are longer than any of those.
func TestSlowBodiesAreNotCut(t *testing.T) {
	const limit, pause, part = 2 * time.Second, 2500 * time.Millisecond, "a part of a body\n"
	const parts = 2
	whole := strings.Repeat(part, parts)
	slowly := func(write func() error) (err error) {
		for range parts {
			time.Sleep(pause)
			if err = write(); err != nil {
				return err
			}
		}
		return nil
	}
	versions(t, func(t *testing.T, h2 bool) {
		t.Parallel()
		for name, length := range map[string]string{"length": "34", "chunks": ""} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w, own := inspecting(t, policyOf(t, fullPolicy), func(o *Options) {
					l := &o.Limits
					l.HeadTime, l.BodyTime, l.KeepAlive, l.Answer = limit, limit, limit, limit
				})
				w.secureWeb(h2, func(rw http.ResponseWriter, r *http.Request) {
					if b, err := io.ReadAll(r.Body); r.Method == "POST" && (err != nil || string(b) != whole) {
						t.Errorf("the server got %q, %v", b, err)
					}
					if length != "" {
						rw.Header().Set("Content-Length", length)
					}
					rw.WriteHeader(200)
					flush := http.NewResponseController(rw).Flush
					flush()
					slowly(func() error { io.WriteString(rw, part); return flush() })
				}, "api.example.com:443")
				client := w.client(own, h2)
				body, sender := io.Pipe()
				go func() {
					sender.CloseWithError(slowly(func() error { _, err := io.WriteString(sender, part); return err }))
				}()
				for method, body := range map[string]io.Reader{"GET": nil, "POST": body} {
					req, _ := http.NewRequest(method, "https://api.example.com/", body)
					if method == "POST" && length != "" {
						req.ContentLength = int64(len(whole))
					}
					resp, err := client.Do(req)
					if err != nil {
						t.Fatalf("%s: %v", method, err)
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || string(b) != whole {
						t.Errorf("%s: %s %q, %v", method, resp.Status, b, err)
					}
				}
				if told := w.told(); len(told) > 0 {
					t.Errorf("events %q", told)
				}
			})
		}
	})
}
