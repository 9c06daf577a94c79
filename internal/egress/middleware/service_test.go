package middleware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	middlewarev1 "sallyport/api/middleware/v1"
	"sallyport/api/middleware/v1/middlewarev1connect"
	"sallyport/internal/policy"
)

// scanner is a service as somebody would write one.
type scanner struct {
	middlewarev1connect.UnimplementedMiddlewareServiceHandler
	hooks   []middlewarev1.Hook
	most    int64 // bytes of a body; 1000 if 0
	invalid string
	answer  *middlewarev1.EvaluateHttpRequestResponse
	text    *middlewarev1.EvaluateWebSocketMessageResponse
	wait    chan struct{} // closed: answers are given
	asked   atomic.Int32
	got     chan *middlewarev1.EvaluateHttpRequestRequest
	status  chan int32
}

func (s *scanner) Describe(context.Context, *middlewarev1.DescribeRequest) (*middlewarev1.DescribeResponse, error) {
	s.asked.Add(1)
	return &middlewarev1.DescribeResponse{Name: "scanner", Hooks: s.hooks, MaxBodyBytes: cmp.Or(s.most, 1000)}, nil
}

func (s *scanner) ValidateConfig(_ context.Context, r *middlewarev1.ValidateConfigRequest) (*middlewarev1.ValidateConfigResponse, error) {
	if got := r.GetConfig().AsMap()["level"]; got != 3.0 {
		return nil, fmt.Errorf("level is %v, want 3", got)
	}
	return &middlewarev1.ValidateConfigResponse{Valid: s.invalid == "", Reason: s.invalid}, nil
}

func (s *scanner) EvaluateHttpRequest(ctx context.Context, r *middlewarev1.EvaluateHttpRequestRequest) (*middlewarev1.EvaluateHttpRequestResponse, error) {
	select {
	case <-s.wait:
	case <-ctx.Done():
		return nil, ctx.Err() // an answer would race with the caller's own clock
	}
	select {
	case s.got <- r:
	default:
	}
	return s.answer, nil
}

func (s *scanner) EvaluateHttpResponse(_ context.Context, r *middlewarev1.EvaluateHttpResponseRequest) (*middlewarev1.EvaluateHttpResponseResponse, error) {
	s.status <- r.GetStatus()
	return &middlewarev1.EvaluateHttpResponseResponse{Decision: middlewarev1.Decision_DECISION_DENY, Reason: "not for you\nX: y"}, nil
}

func (s *scanner) EvaluateWebSocketMessage(context.Context, *middlewarev1.EvaluateWebSocketMessageRequest) (*middlewarev1.EvaluateWebSocketMessageResponse, error) {
	return s.text, nil
}

func allowing(change *middlewarev1.Change) *middlewarev1.EvaluateHttpRequestResponse {
	return &middlewarev1.EvaluateHttpRequestResponse{Decision: middlewarev1.Decision_DECISION_ALLOW, Change: change}
}

// serve starts a service on a unix socket and returns stages that ask it.
func (s *scanner) serve(t *testing.T, more string) Stages {
	t.Helper()
	if s.wait == nil {
		s.wait = make(chan struct{})
		close(s.wait)
	}
	if s.hooks == nil {
		s.hooks = []middlewarev1.Hook{middlewarev1.Hook_HOOK_HTTP_REQUEST, middlewarev1.Hook_HOOK_HTTP_RESPONSE, middlewarev1.Hook_HOOK_WEBSOCKET_TEXT}
	}
	s.got, s.status = make(chan *middlewarev1.EvaluateHttpRequestRequest, 100), make(chan int32, 100)
	file := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(middlewarev1connect.NewMiddlewareServiceHandler(s))
	srv := &http.Server{Handler: mux, Protocols: &http.Protocols{}}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return stages(t, file, more)
}

func stages(t *testing.T, file, more string) Stages {
	t.Helper()
	return chain(t, "  m: {middleware: sallyport/grpc, order: 1, "+more+" config: {address: 'unix:"+file+"', timeout_ms: 20000, settings: {level: 3}}}\n").For("a.example")
}

func bytesOf(s string) []byte { return []byte(s) }

func TestServiceAllows(t *testing.T) {
	s := &scanner{answer: allowing(&middlewarev1.Change{
		Set:    []*middlewarev1.Header{{Name: "x-scanned", Value: "1"}, {Name: "X-Scanned", Value: "2"}},
		Remove: []string{"x-old"}, Body: bytesOf("other"),
	})}
	s.answer.Findings = []*middlewarev1.Finding{{Title: "seen", Detail: "a\x1b[31mb"}}
	st := s.serve(t, "")
	if n := st.Limit(t.Context(), Request); n != 1000 {
		t.Errorf("Limit = %d, want what the service says", n)
	}
	m := request("body")
	m.Header.Set("X-Old", "x")
	found, err := st.Run(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(http.Header{"Content-Type": {"text/plain"}, "X-Scanned": {"1", "2"}}, m.Header); diff != "" || string(m.Body) != "other" {
		t.Errorf("body %q, headers differ (-want +got):\n%s", m.Body, diff)
	}
	if diff := gocmp.Diff([]Finding{{"m", "seen", "a [31mb"}}, found); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	got := <-s.got
	if tg := got.GetTarget(); tg.GetHost() != "a.example" || tg.GetPort() != 443 || tg.GetMethod() != "POST" || tg.GetPath() != "/x" || string(got.GetBody()) != "body" {
		t.Errorf("the service was asked %v", got)
	}
	if _, err := st.Run(t.Context(), request("again")); err != nil || s.asked.Load() != 1 {
		t.Errorf("Run = %v, described %d times, want once", err, s.asked.Load())
	}
}

func TestServiceDenies(t *testing.T) {
	s := &scanner{answer: &middlewarev1.EvaluateHttpRequestResponse{Decision: middlewarev1.Decision_DECISION_DENY, Reason: "no cards"}}
	st := s.serve(t, "on_error: fail_open,")
	_, err := st.Run(t.Context(), request("x"))
	if d, ok := errors.AsType[*Denied](err); !ok || d.Middleware != "m" || d.Reason != "no cards" {
		t.Errorf("Run = %v, want the denial of the service, fail_open or not", err)
	}
	m := request("x")
	m.Hook, m.Status = Response, 200
	_, err = st.Run(t.Context(), m)
	if d, ok := errors.AsType[*Denied](err); !ok || d.Reason != "not for you X: y" || <-s.status != 200 {
		t.Errorf("Run of an answer = %v, want its denial in one line", err)
	}
}

func TestServiceText(t *testing.T) {
	s := &scanner{text: &middlewarev1.EvaluateWebSocketMessageResponse{Decision: middlewarev1.Decision_DECISION_ALLOW, Message: bytesOf("")}}
	st := s.serve(t, "")
	m := &Message{Hook: Text, Body: bytesOf("x")}
	if _, err := st.Run(t.Context(), m); err != nil || len(m.Body) != 0 {
		t.Errorf("Run = %v, %q, want an empty text", err, m.Body)
	}
	s.text.Message = nil
	m.Body = bytesOf("x")
	if _, err := st.Run(t.Context(), m); err != nil || string(m.Body) != "x" {
		t.Errorf("Run = %v, %q, want the same text", err, m.Body)
	}
	s.text.Message = bytesOf("\xff")
	if _, err := st.Run(t.Context(), m); err == nil || string(m.Body) != "x" {
		t.Errorf("Run = %v, %q, want a failure: it is not UTF-8", err, m.Body)
	}
}

// TestServiceHooks: a service is not asked about what it does not want to see, and nothing is held for it.
func TestServiceHooks(t *testing.T) {
	s := &scanner{hooks: []middlewarev1.Hook{middlewarev1.Hook_HOOK_HTTP_RESPONSE}}
	st := s.serve(t, "")
	if n := st.Limit(t.Context(), Request); n != 0 {
		t.Errorf("Limit = %d, want 0", n)
	}
	m := request("")
	m.TooLarge = true
	if _, err := st.Run(t.Context(), m); err != nil || len(s.got) != 0 {
		t.Errorf("Run = %v, asked %d times, want not at all", err, len(s.got))
	}
}

func removing(n int) *middlewarev1.EvaluateHttpRequestResponse {
	c := &middlewarev1.Change{}
	for i := range n {
		c.Remove = append(c.Remove, fmt.Sprintf("X-%d", i))
	}
	return allowing(c)
}

func finding(n, long int) *middlewarev1.EvaluateHttpRequestResponse {
	a := allowing(nil)
	for range n {
		a.Findings = append(a.Findings, &middlewarev1.Finding{Title: strings.Repeat("x", long)})
	}
	return a
}

// TestServiceWithinBounds: what is just below each bound of TestServiceFails passes, and is what comes of the message.
func TestServiceWithinBounds(t *testing.T) {
	set := func(name, value string) *middlewarev1.EvaluateHttpRequestResponse {
		return allowing(&middlewarev1.Change{Set: []*middlewarev1.Header{{Name: name, Value: value}}})
	}
	long, name := strings.Repeat("x", 8<<10), "X"+strings.Repeat("a", 127)
	for _, c := range []struct {
		name string
		s    *scanner
		ok   func(m *Message, found []Finding) bool
	}{
		{"changes", &scanner{answer: removing(maxChanges)}, func(m *Message, _ []Finding) bool { return m.Header.Get("X-63") == "" }},
		{"findings", &scanner{answer: finding(maxFindings, 1)}, func(_ *Message, f []Finding) bool { return len(f) == maxFindings }},
		{"text", &scanner{answer: finding(1, maxText)}, func(_ *Message, f []Finding) bool { return f[0].Title == strings.Repeat("x", maxText) }},
		{"longer text, which is cut", &scanner{answer: finding(1, 100*maxText)}, func(_ *Message, f []Finding) bool { return f[0].Title == strings.Repeat("x", maxText)+"…" }},
		{"header", &scanner{answer: set("X-A", long)}, func(m *Message, _ []Finding) bool { return m.Header.Get("X-A") == long }},
		{"name of a header", &scanner{answer: set(name, "1")}, func(m *Message, _ []Finding) bool { return m.Header.Get(name) == "1" }},
		{"bodies", &scanner{most: maxBody, answer: allowing(&middlewarev1.Change{Body: make([]byte, maxBody)})}, func(m *Message, _ []Finding) bool { return len(m.Body) == maxBody }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := request("body")
			m.Header.Set("X-63", "x")
			if found, err := c.s.serve(t, "").Run(t.Context(), m); err != nil || !c.ok(m, found) {
				t.Errorf("Run = %d findings, %v, a body of %d", len(found), err, len(m.Body))
			}
		})
	}
}

// TestServiceIsShownFewHeaders: of an answer with one too many the service hears nothing.
func TestServiceIsShownFewHeaders(t *testing.T) {
	s := &scanner{}
	st := s.serve(t, "")
	for n, want := range map[int]string{maxHeaders: "not for you", maxHeaders + 1: "257 headers"} {
		m := &Message{Hook: Response, Status: n, Header: http.Header{}}
		for i := range n {
			m.Header.Add("X", fmt.Sprint(i))
		}
		_, err := st.Run(t.Context(), m)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run with %d headers = %v, want %q", n, err, want)
		}
	}
	if <-s.status != maxHeaders || len(s.status) != 0 {
		t.Error("the service was asked about more than it is shown")
	}
}

// stuck is a middleware that takes its time.
type stuck struct{ takes time.Duration }

func (s stuck) limit(context.Context, Hook) (int64, error) { return 100, nil }
func (s stuck) close()                                     {}
func (s stuck) handle(ctx context.Context, _ *Message) ([]Finding, error) {
	select {
	case <-time.After(s.takes):
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestTimes are the bounds of time, on a clock that does not wait: what takes just less passes.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, last := range []time.Duration{chainTime/2 - 1, chainTime/2 + 1} {
			for _, open := range []bool{false, true} {
				var s Stages
				for _, takes := range []time.Duration{chainTime / 2, last} {
					s = append(s, &stage{policy.Middleware{Key: "m", FailOpen: open}, stuck{takes}})
				}
				began := time.Now()
				_, err := s.Run(t.Context(), request("x"))
				if (err == nil) != (last < chainTime/2) || time.Since(began) > chainTime {
					t.Errorf("all together %v, fail_open %v: Run = %v after %v", chainTime/2+last, open, err, time.Since(began))
				}
			}
		}
		// A service that takes the connection and then says nothing.
		h, err := newService(&policy.Service{Address: "http://127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		defer h.close()
		h.http.DialContext = func(context.Context, string, string) (net.Conn, error) {
			client, c := net.Pipe()
			t.Cleanup(func() { c.Close() })
			go io.Copy(io.Discard, c)
			return client, nil
		}
		if h.timeout != callTime {
			t.Errorf("a call may take %v, want the default", h.timeout)
		}
		for _, c := range []struct{ wait, takes time.Duration }{{0, connectTime}, {retryTime - 1, 0}, {1, connectTime}} {
			time.Sleep(c.wait) // of the bubble's clock
			began := time.Now()
			if _, err := h.limit(t.Context(), Request); err == nil || time.Since(began) != c.takes {
				t.Errorf("after %v more: %v after %v, want an error after %v", c.wait, err, time.Since(began), c.takes)
			}
		}
	})
}

// TestServiceFails: whatever a service does wrong, the message does not pass; with fail_open it passes as it was.
func TestServiceFails(t *testing.T) {
	header := func(name, value string) *middlewarev1.Change {
		return &middlewarev1.Change{Set: []*middlewarev1.Header{{Name: "X-Good", Value: "1"}, {Name: name, Value: value}}, Body: bytesOf("other")}
	}
	for _, c := range []struct {
		name string
		s    *scanner
		want string
	}{
		{"no decision", &scanner{answer: &middlewarev1.EvaluateHttpRequestResponse{}}, "none"},
		{"another decision", &scanner{answer: &middlewarev1.EvaluateHttpRequestResponse{Decision: 9}}, "none"},
		{"refuses its settings", &scanner{invalid: "level 3 is too much"}, "level 3 is too much"},
		{"unknown hook", &scanner{hooks: []middlewarev1.Hook{7}}, "not known"},
		{"no answer to hooks", &scanner{hooks: []middlewarev1.Hook{middlewarev1.Hook_HOOK_UNSPECIFIED}}, "not known"},
		{"Host", &scanner{answer: allowing(header("Host", "evil.example"))}, "Host"},
		{"framing", &scanner{answer: allowing(header("content-length", "0"))}, "Content-Length"},
		{"upgrade", &scanner{answer: allowing(header("Sec-WebSocket-Protocol", "x"))}, "Sec-Websocket-Protocol"},
		{"header name", &scanner{answer: allowing(header("X:y", "1"))}, "X:y"},
		{"underscore", &scanner{answer: allowing(header("Content_Length", "1"))}, "Content_length"},
		{"line end in a value", &scanner{answer: allowing(header("X-A", "1\r\nX-B: 2"))}, "X-A"},
		{"removes the host", &scanner{answer: allowing(&middlewarev1.Change{Remove: []string{"host"}})}, "Host"},
		{"many changes", &scanner{answer: removing(maxChanges + 1)}, "65 headers"},
		{"many findings", &scanner{answer: finding(maxFindings+1, 1)}, "33 findings"},
		{"long header", &scanner{answer: allowing(header("X-A", strings.Repeat("x", 8<<10+1)))}, "X-A"},
		{"long name of a header", &scanner{answer: allowing(header("X"+strings.Repeat("a", 128), "1"))}, "Xaaa"},
		{"wants large bodies", &scanner{most: maxBody + 1}, "expected at most"},
		{"wants less than nothing", &scanner{most: -1}, "expected at most"},
		{"large body", &scanner{answer: allowing(&middlewarev1.Change{Body: make([]byte, maxBody+1)})}, "expected at most"},
		{"enormous body", &scanner{answer: allowing(&middlewarev1.Change{Body: make([]byte, maxBody+envelope)})}, "resource_exhausted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := c.s.serve(t, "")
			m := request("body")
			_, err := st.Run(t.Context(), m)
			f, ok := errors.AsType[*Failed](err)
			if !ok || f.Middleware != "m" || !strings.Contains(f.Error(), c.want) {
				t.Fatalf("Run = %v, want *Failed with %q", err, c.want)
			}
			if string(m.Body) != "body" || m.Header.Get("X-Good") != "" {
				t.Errorf("the message was changed all the same: %q %v", m.Body, m.Header)
			}
			open := Stages{st[0]}
			open[0].FailOpen = true
			found, err := open.Run(t.Context(), m)
			if err != nil || string(m.Body) != "body" || m.Header.Get("X-Good") != "" || !strings.Contains(found[len(found)-1].Title, "failed") {
				t.Errorf("with fail_open: Run = %v, %v, body %q", found, err, m.Body)
			}
		})
	}
}

func TestServiceIsNotThere(t *testing.T) {
	st := stages(t, filepath.Join(t.TempDir(), "none"), "")
	for range 2 {
		if n := st.Limit(t.Context(), Request); n != defaultBody {
			t.Errorf("Limit = %d, want the default", n)
		}
		if _, err := st.Run(t.Context(), request("x")); err == nil || !strings.Contains(err.Error(), "unavailable") {
			t.Errorf("Run = %v, want a failure", err)
		}
	}
}

// TestServiceHangs: the time of a call ends it, and so does its end of the message; calls beyond the limit wait.
func TestServiceHangs(t *testing.T) {
	s := &scanner{wait: make(chan struct{}), answer: allowing(nil)}
	st := s.serve(t, "")
	svc := st[0].handler.(*service)
	if st.Limit(t.Context(), Request) != 1000 {
		t.Fatal("the service does not introduce itself")
	}
	svc.timeout = 100 * time.Millisecond
	if _, err := st.Run(t.Context(), request("x")); err == nil || !strings.Contains(err.Error(), "deadline_exceeded") {
		t.Errorf("Run = %v, want a deadline", err)
	}
	for range calls {
		svc.slots <- struct{}{}
	}
	if _, err := st.Run(t.Context(), request("x")); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("Run = %v, want that it is busy", err)
	}
	for range calls {
		<-svc.slots
	}
	close(s.wait)
	svc.timeout = time.Minute
	if _, err := st.Run(t.Context(), request("x")); err != nil {
		t.Errorf("Run = %v, want that it works again", err)
	}
}

// TestServiceOverTCP: the same by http on loopback; a service that redirects has failed.
func TestServiceOverTCP(t *testing.T) {
	s := &scanner{answer: allowing(nil)}
	s.serve(t, "")
	mux := http.NewServeMux()
	mux.Handle(middlewarev1connect.NewMiddlewareServiceHandler(s))
	for _, c := range []struct {
		name string
		h    http.Handler
		ok   bool
	}{{"works", mux, true}, {"redirects", http.RedirectHandler("http://127.0.0.1:1/", http.StatusTemporaryRedirect), false}, {"speaks something else", http.NotFoundHandler(), false}} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: c.h, Protocols: &http.Protocols{}}
			srv.Protocols.SetUnencryptedHTTP2(true)
			go srv.Serve(l)
			t.Cleanup(func() { srv.Close() })
			st := chain(t, "  m: {middleware: sallyport/grpc, order: 1, config: {address: 'http://"+l.Addr().String()+"', timeout_ms: 20000, settings: {level: 3}}}\n").For("a.example")
			if _, err := st.Run(t.Context(), request("x")); (err == nil) != c.ok {
				t.Errorf("Run = %v, want success: %v", err, c.ok)
			}
		})
	}
}
