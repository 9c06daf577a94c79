package proxy

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/internal/egress/inference"
	"sallyport/internal/policy"
)

// keyless are the Keys of backends that want none.
type keyless struct{}

func (keyless) Authorize(context.Context, string, http.Header) error { return nil }
func (keyless) ScrubFor(string, *http.Response) error                { return nil }
func (keyless) Free([]byte) error                                    { return nil }

// TestBoundsOfInference are those of a host that is answered for here: each is told
// in the words of the dialect and is one event, no backend hears of it, and what is
// just below passes. A client that could be heard further is.
func TestBoundsOfInference(t *testing.T) {
	message := func(pad int) ask {
		return post("/v1/messages", `{"model":"m","x":"`+strings.Repeat("x", pad)+`"}`)
	}
	slow := post("/v1/messages", `{"model":"slow"}`)
	for _, c := range []struct {
		why         string
		over, under ask
		config      policy.Inference
		status      int
		reason, end string // of HTTP/1
	}{
		{"body that says its length", message(times * bound), message(bound - 100), policy.Inference{MaxBody: bound}, 413, "inference_body_too_large", "closed"},
		{"body that does not", message(times * bound).with(unsized), message(bound - 100).with(unsized), policy.Inference{MaxBody: bound}, 413, "inference_body_too_large", "closed"},
		{"at once", message(0), message(0), policy.Inference{MaxConcurrent: 1}, 429, "inference_busy", "goes on"},
		{"a minute", message(0), message(0), policy.Inference{PerMinute: 1}, 429, "inference_rate", "goes on"},
		{"until an answer", slow, ask{}, policy.Inference{}, 504, "inference_backend", "goes on"},
	} {
		t.Run(c.why, func(t *testing.T) {
			versions(t, func(t *testing.T, h2 bool) {
				let, got := make(chan struct{}), seen{}
				backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					if got.add("%.30s", b); c.why == "at once" || strings.Contains(string(b), "slow") {
						select {
						case <-let:
						case <-r.Context().Done():
						}
					}
				}))
				t.Cleanup(backend.Close)
				back := &http.Transport{}
				t.Cleanup(back.CloseIdleConnections)
				c.config.Routes = []policy.Route{{API: policy.Anthropic, Base: backend.URL, Timeout: time.Minute}}
				if c.status == 504 {
					c.config.Routes[0].Timeout = 300 * time.Millisecond
				}
				hour := time.Unix(1e9, 0)
				router, err := inference.New(inference.Options{Config: &c.config, Keys: keyless{}, Transport: back, Now: func() time.Time { return hour }})
				if err != nil {
					t.Fatal(err)
				}
				w, own := inspecting(t, policyOf(t, fullHost), func(o *Options) { o.Local = Local{"api.example.com": router} })
				first := w.speak(own, h2)
				if c.status == 429 {
					first.Write(first.begin(c.under))
					w.eventually("the first one", func() bool { return len(got.all()) == 1 })
				}
				s := w.speak(own, h2)
				text := s.begin(c.over)
				before := allocated()
				s.Write(text)
				is, body, ended := s.hear()
				used, end := allocated()-before, c.end
				if h2 {
					end = "goes on"
				}
				if is != c.status || ended != end || !strings.Contains(body, `"type":"error"`) {
					t.Errorf("%d %s, %s; want %d, %s", is, body, ended, c.status, end)
				}
				if told, want := w.told(), map[bool]string{true: " Allowed", false: " Blocked"}[is >= 500]; !slices.Equal(told, []string{c.reason + want}) {
					t.Errorf("events %q, want %s%s", told, c.reason, want)
				}
				if may := int64(memory*bound + 2*window); used > may {
					t.Errorf("%d bytes allocated while %d were sent; %d are too many", used, len(text), may)
				}
				runtime.KeepAlive(text)
				close(let)
				if c.status == 504 {
					return // what answers in time is in the other rows
				}
				if s = first; c.status != 429 { // else the first one was below
					s.Write(s.begin(c.under))
				}
				if is, body, ended := s.hear(); is != 200 || ended != "goes on" {
					t.Errorf("below the bound: %d %s, %s", is, body, ended)
				}
				if n := len(got.all()); n != 1 {
					t.Errorf("the backend saw %q", got.all())
				}
				w.eventually("no body is held", func() bool { return w.server.held.Load() == 0 })
			})
		})
	}
}
