package inference

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "real-key-of-the-backend"

// keys gives one provider a key.
type keys struct{ fail error }

func (k keys) Authorize(_ context.Context, provider string, h http.Header) error {
	h.Set("Authorization", "Bearer "+key)
	return k.fail
}

func (keys) ScrubFor(_ string, resp *http.Response) error {
	resp.Header.Set("X-Request-Id", "scrubbed")
	return nil
}

func (keys) Free(b []byte) error {
	if strings.Contains(string(b), "PLACEHOLDER") {
		return errors.New("a placeholder in a body")
	}
	return nil
}

// backend is a server that remembers what it was asked.
type backend struct {
	*httptest.Server
	path, body string
	header     http.Header
	answer     func(w http.ResponseWriter, r *http.Request)
}

func newBackend(t *testing.T) *backend {
	b := &backend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		b.path, b.body, b.header = r.Method+" "+r.RequestURI, string(raw), r.Header
		if b.answer != nil {
			b.answer(w, r)
			return
		}
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("X-Ratelimit-Limit", "7")
		io.WriteString(w, `{"ok":true}`)
	}))
	t.Cleanup(b.Close)
	return b
}

func router(t *testing.T, c *policy.Inference, k Keys, now func() time.Time) *Router {
	t.Helper()
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	r, err := New(Options{Config: c, Keys: k, Transport: tr, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func do(t *testing.T, r *Router, first, body string, headers ...string) (int, string, http.Header) {
	t.Helper()
	method, path, _ := strings.Cut(first, " ")
	req := httptest.NewRequest(method, "https://inference.local"+path, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := r.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func config(base string, change func(*policy.Inference)) *policy.Inference {
	c := &policy.Inference{Routes: []policy.Route{
		{API: policy.OpenAI, Base: base, Provider: "p", MaxTokens: 100, Timeout: time.Minute,
			Models: []policy.Model{{Name: "gpt-*", Use: "real-model"}, {Name: "plain"}}},
		{API: policy.OpenAI, Base: base + "/second", Timeout: time.Minute, Models: []policy.Model{{Name: "local-*"}}},
		{API: policy.Anthropic, Base: base, Provider: "p", MaxTokens: 100, Timeout: time.Minute},
	}}
	if change != nil {
		change(c)
	}
	return c
}

// TestRoutes: what a backend gets for what an agent asks.
func TestRoutes(t *testing.T) {
	for _, c := range []struct {
		name, first, body string
		path, sent        string
	}{
		{"chat", "POST /v1/chat/completions", `{"model":"gpt-x","messages":[1.0e2],"stream":true}`, "POST /v1/chat/completions",
			`{"max_completion_tokens":100,"messages":[1.0e2],"model":"real-model","stream":true}`},
		{"chat with the older limit", "POST /v1/chat/completions", `{"model":"plain","max_tokens":5000}`, "POST /v1/chat/completions", `{"max_tokens":100,"model":"plain"}`},
		{"within the limit", "POST /v1/completions", `{"model":"plain","max_tokens":7,"n":1}`, "POST /v1/completions", `{"max_tokens":7,"model":"plain","n":1}`},
		{"responses", "POST /v1/responses", `{"model":"plain","input":"<&>"}`, "POST /v1/responses", `{"input":"<&>","max_output_tokens":100,"model":"plain"}`},
		{"embeddings", "POST /v1/embeddings", `{"model":"plain","input":"x"}`, "POST /v1/embeddings", `{"input":"x","model":"plain"}`},
		{"second route", "POST /v1/chat/completions", `{"model":"local-7b"}`, "POST /second/v1/chat/completions", `{"model":"local-7b"}`},
		{"messages", "POST /v1/messages", `{"model":"any","max_tokens":1000}`, "POST /v1/messages", `{"max_tokens":100,"model":"any"}`},
		{"messages by query", "POST /v1/messages?beta=true", `{"model":"any","max_tokens":1}`, "POST /v1/messages", `{"max_tokens":1,"model":"any"}`},
		{"count", "POST /v1/messages/count_tokens", `{"model":"any"}`, "POST /v1/messages/count_tokens", `{"model":"any"}`},
	} {
		b := newBackend(t)
		r := router(t, config(b.URL, nil), keys{}, nil)
		status, _, h := do(t, r, c.first, c.body, "Authorization: Bearer of-the-agent", "X-Api-Key: of-the-agent", "Cookie: c", "Content-Type: application/json", "X-Secret: s", "Anthropic-Version: v")
		if status != 200 || b.path != c.path || b.body != c.sent {
			t.Errorf("%s: %d, backend got %s %s\nwant %s %s", c.name, status, b.path, b.body, c.path, c.sent)
		}
		wantKey := "Bearer " + key
		if c.name == "second route" {
			wantKey = ""
		}
		if b.header.Get("Authorization") != wantKey || b.header.Get("X-Api-Key")+b.header.Get("Cookie")+b.header.Get("X-Secret") != "" || b.header.Get("Anthropic-Version") != "v" {
			t.Errorf("%s: backend got the headers %v", c.name, b.header)
		}
		if h.Get("Set-Cookie") != "" || h.Get("X-Ratelimit-Limit") != "7" {
			t.Errorf("%s: the agent got the headers %v", c.name, h)
		}
	}
}

// TestRefuses: what an agent is told, and that no backend hears of it.
func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		name, first, body string
		status            int
		want              string
	}{
		{"unknown path", "POST /v1/files", `{}`, 403, "does not serve POST /v1/files"},
		{"method", "DELETE /v1/models/x", ``, 403, "does not serve DELETE"},
		{"GET of a call", "GET /v1/chat/completions", ``, 403, "does not serve GET"},
		{"escaped path", "POST /v1%2fchat/completions", `{"model":"plain"}`, 403, "does not serve"},
		{"dots", "POST /v1/x/../messages", `{"model":"plain"}`, 403, "does not serve"},
		{"model not allowed", "POST /v1/chat/completions", `{"model":"o1"}`, 403, "no route serves model \\\"o1\\\"; allowed are gpt-*, plain, local-*"},
		{"no model", "POST /v1/chat/completions", `{"messages":[]}`, 400, "names no model"},
		{"model is no text", "POST /v1/chat/completions", `{"model":7}`, 400, "names no model"},
		{"second model", "POST /v1/chat/completions", `{"model":"plain","model":"o1"}`, 400, `the field \"model\" twice`},
		{"escaped second model", "POST /v1/chat/completions", `{"model":"plain","mod\u0065l":"o1"}`, 400, `twice`},
		{"model in capitals", "POST /v1/chat/completions", `{"model":"plain","Model":"o1"}`, 400, "could be taken for"},
		{"not JSON", "POST /v1/chat/completions", `model=plain`, 400, "not a JSON object"},
		{"list", "POST /v1/chat/completions", `[{"model":"plain"}]`, 400, "not a JSON object"},
		{"cut", "POST /v1/chat/completions", `{"model":"plain"`, 400, "not valid JSON"},
		{"two bodies", "POST /v1/chat/completions", `{"model":"plain"}{"model":"o1"}`, 400, "goes on after"},
		{"too long", "POST /v1/chat/completions", `{"model":"plain","x":"` + strings.Repeat("x", 2000) + `"}`, 413, "longer than 1000 bytes"},
		{"many answers", "POST /v1/chat/completions", `{"model":"plain","n":50}`, 400, "n must be 1"},
		{"limit twice", "POST /v1/chat/completions", `{"model":"plain","max_tokens":1,"max_completion_tokens":9}`, 400, "not both"},
		{"limit in words", "POST /v1/chat/completions", `{"model":"plain","max_tokens":"9"}`, 400, "not a whole number"},
		{"limit with an exponent", "POST /v1/chat/completions", `{"model":"plain","max_tokens":1e9}`, 400, "not a whole number"},
		{"negative limit", "POST /v1/messages", `{"model":"plain","max_tokens":-1}`, 400, "not a whole number"},
		{"placeholder", "POST /v1/messages", `{"model":"plain","x":"PLACEHOLDER"}`, 403, "a placeholder in a body"},
	} {
		b := newBackend(t)
		r := router(t, config(b.URL, func(c *policy.Inference) { c.MaxBody = 1000 }), keys{}, nil)
		status, body, h := do(t, r, c.first, c.body)
		if status != c.status || !strings.Contains(body, c.want) || !strings.HasPrefix(h.Get("X-Sallyport-Policy"), "error=") {
			t.Errorf("%s: %d %s, want %d with %q", c.name, status, body, c.status, c.want)
		}
		if !json.Valid([]byte(body)) || b.path != "" {
			t.Errorf("%s: not JSON, or the backend was asked %s", c.name, b.path)
		}
		if strings.Contains(c.first, "messages") && c.name != "dots" && !strings.Contains(body, `"type":"error"`) {
			t.Errorf("%s: not in Anthropic's words: %s", c.name, body)
		}
	}
}

func TestModels(t *testing.T) {
	b := newBackend(t)
	r := router(t, config(b.URL, nil), keys{}, nil)
	if status, body, _ := do(t, r, "GET /v1/models", ""); status != 200 || !strings.Contains(body, `"id":"plain"`) || strings.Contains(body, "gpt-") || b.path != "" {
		t.Errorf("list: %d %s, backend %q", status, body, b.path)
	}
	if status, body, _ := do(t, r, "GET /v1/models/gpt-5", ""); status != 200 || !strings.Contains(body, `"id":"gpt-5"`) {
		t.Errorf("one: %d %s", status, body)
	}
	if status, _, _ := do(t, r, "GET /v1/models/o1", ""); status != 404 {
		t.Errorf("one that is not allowed: %d", status)
	}
	if status, _, _ := do(t, r, "GET /v1/models", "", "Anthropic-Version: 2023-06-01"); status != 200 || b.path != "GET /v1/models" {
		t.Errorf("Anthropic's list: %d, backend %q", status, b.path)
	}
	if status, _, _ := do(t, r, "GET /v1/models/a%2Fb", "", "Anthropic-Version: 2023-06-01"); status != 403 {
		t.Errorf("a slash in a name: %d, backend %q", status, b.path)
	}
}

// TestStreams: each event is there before the next one is sent.
func TestStreams(t *testing.T) {
	b := newBackend(t)
	next := make(chan struct{})
	b.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range []string{"data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"} {
			io.WriteString(w, e)
			w.(http.Flusher).Flush()
			<-next
		}
	}
	r := router(t, config(b.URL, nil), keys{}, nil)
	resp, err := r.RoundTrip(httptest.NewRequest("POST", "https://inference.local/v1/messages", strings.NewReader(`{"model":"m","stream":true}`)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, want := range []string{"data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"} {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
		next <- struct{}{}
	}
}

func TestPaceAndPlaces(t *testing.T) {
	b := newBackend(t)
	now := time.Unix(1e9, 0)
	r := router(t, config(b.URL, func(c *policy.Inference) { c.PerMinute, c.MaxConcurrent = 3, 1 }), keys{}, func() time.Time { return now })
	ask := func() (*http.Response, error) {
		return r.RoundTrip(httptest.NewRequest("POST", "https://inference.local/v1/messages", strings.NewReader(`{"model":"m"}`)))
	}
	first, err := ask()
	if err != nil || first.StatusCode != 200 {
		t.Fatal(first, err)
	}
	busy, _ := ask()
	if busy.StatusCode != 429 || !strings.Contains(busy.Header.Get("X-Sallyport-Policy"), "busy") {
		t.Errorf("second at once: %d", busy.StatusCode)
	}
	first.Body.Close()
	first.Body.Close()
	for i, want := range []int{200, 429, 429} {
		resp, _ := ask()
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("request %d: %d, want %d", i+3, resp.StatusCode, want)
		}
		if want == 429 && resp.Header.Get("Retry-After") != "20" {
			t.Errorf("Retry-After = %q, want 20", resp.Header.Get("Retry-After"))
		}
	}
	now = now.Add(20 * time.Second)
	if resp, _ := ask(); resp.StatusCode != 200 {
		t.Errorf("after a third of a minute: %d", resp.StatusCode)
	} else {
		resp.Body.Close()
	}
}

func TestBackendFails(t *testing.T) {
	redirect := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://evil.example/", 307) }
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		keys   Keys
		status int
		want   string
	}{
		{"redirect", redirect, keys{}, 502, "redirect, which is not followed"},
		{"no key", nil, keys{errors.New("cannot be had now")}, 503, "cannot be had now"},
		{"slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, keys{}, 504, "did not answer in time"},
		{"cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, keys{}, 502, "could not be reached"},
		{"its own refusal", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "overloaded", 529) }, keys{}, 529, "overloaded"},
	} {
		b := newBackend(t)
		b.answer = c.answer
		r := router(t, config(b.URL, func(i *policy.Inference) {
			if c.status == http.StatusGatewayTimeout {
				i.Routes[2].Timeout = 300 * time.Millisecond
			}
		}), c.keys, nil)
		status, body, _ := do(t, r, "POST /v1/messages", `{"model":"m"}`)
		if status != c.status || !strings.Contains(body, c.want) || strings.Contains(body, key) {
			t.Errorf("%s: %d %s, want %d with %q", c.name, status, body, c.status, c.want)
		}
	}
}

// FuzzParse: what is sent on holds the model that was judged, once.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"model":"a","max_tokens":3}`))
	f.Add([]byte(`{"model":"a","Model":"b"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parse(b)
		if err != nil {
			return
		}
		a.use("judged")
		if err := a.limit(calls[policy.OpenAI]["/v1/chat/completions"], 10); err != nil {
			return
		}
		out := a.encode()
		again, err := parse(out)
		if err != nil || again.model != "judged" {
			t.Fatalf("%q became %q: %v", b, out, err)
		}
		// A reader without a care for case sees the same.
		var loose struct {
			Model  string `json:"model"`
			Tokens int64  `json:"max_tokens"`
			New    int64  `json:"max_completion_tokens"`
		}
		if err := json.Unmarshal(out, &loose); err != nil || loose.Model != "judged" || loose.Tokens > 10 || loose.New > 10 {
			t.Fatalf("%q is read as %+v, %v", out, loose, err)
		}
	})
}
