package middleware

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	middlewarev1 "sallyport/api/middleware/v1"
	"sallyport/api/middleware/v1/middlewarev1connect"
	"sallyport/internal/policy"
)

// Limits of a service.
const (
	callTime    = 500 * time.Millisecond // of one call, where the policy does not say
	connectTime = 5 * time.Second        // for a connection and the first two calls
	retryTime   = time.Second            // until a service that was not there is asked again
	calls       = 32                     // at once; more wait
	maxBody     = 4 << 20                // bytes
	envelope    = 256 << 10              // bytes of a call beside the body

	maxHeaders  = 256 // that a service is shown
	maxChanges  = 64  // of headers
	maxFindings = 32
	maxText     = 512 // bytes of a reason, a title or a detail
)

// service is sallyport/grpc.
type service struct {
	client   middlewarev1connect.MiddlewareServiceClient
	http     *http.Transport
	settings *structpb.Struct
	timeout  time.Duration
	slots    chan struct{}

	mu    sync.Mutex
	known bool // hooks and max are
	hooks map[Hook]bool
	max   int64
	why   error     // they are not
	again time.Time // when to ask again
}

func newService(o *policy.Service) (*service, error) {
	settings, err := structpb.NewStruct(plain(o.Settings).(map[string]any))
	if err != nil {
		return nil, err
	}
	s := &service{settings: settings, timeout: o.Timeout, slots: make(chan struct{}, calls)}
	if s.timeout <= 0 {
		s.timeout = callTime
	}
	base := o.Address
	s.http = &http.Transport{Protocols: &http.Protocols{}, TLSHandshakeTimeout: connectTime, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true}
	dialer := &net.Dialer{Timeout: connectTime}
	s.http.DialContext = dialer.DialContext
	s.http.Protocols.SetHTTP2(true)
	if !strings.HasPrefix(base, "https:") {
		s.http.Protocols.SetHTTP2(false)
		s.http.Protocols.SetUnencryptedHTTP2(true)
	}
	if file, is := strings.CutPrefix(base, "unix:"); is {
		base = "http://middleware"
		s.http.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", file) }
	}
	client := &http.Client{Transport: s.http, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("the service wants to be somewhere else")
	}}
	s.client = middlewarev1connect.NewMiddlewareServiceClient(client, base, connect.WithGRPC(), connect.WithReadMaxBytes(maxBody+envelope), connect.WithSendMaxBytes(maxBody+envelope))
	return s, nil
}

// plain gives what structpb takes: numbers as float64.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, item := range v {
			out[k] = plain(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	case int64:
		return float64(v)
	}
	return v
}

func (s *service) close() { s.http.CloseIdleConnections() }

// limit asks the service what it wants to see, until it has said so once.
func (s *service) limit(ctx context.Context, h Hook) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		if time.Now().Before(s.again) {
			return 0, s.why
		}
		if s.why = s.introduce(ctx); s.why != nil {
			s.again = time.Now().Add(retryTime)
			return 0, s.why
		}
	}
	if !s.hooks[h] {
		return 0, nil
	}
	return s.max, nil
}

// introduce makes the first two calls.
func (s *service) introduce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	d, err := s.client.Describe(ctx, &middlewarev1.DescribeRequest{})
	if err != nil {
		return fault(err)
	}
	v, err := s.client.ValidateConfig(ctx, &middlewarev1.ValidateConfigRequest{Config: s.settings})
	if err != nil {
		return fault(err)
	}
	if !v.GetValid() {
		return fmt.Errorf("the service refuses its settings: %s", clip(v.GetReason()))
	}
	hooks := map[Hook]bool{}
	for _, h := range d.GetHooks() {
		if h < middlewarev1.Hook_HOOK_HTTP_REQUEST || h > middlewarev1.Hook_HOOK_WEBSOCKET_SERVER_MESSAGE {
			return fmt.Errorf("the service has the hook %d, which is not known", h)
		}
		hooks[Hook(h)] = true
	}
	if len(hooks) == 0 {
		return errors.New("the service has no hooks")
	}
	s.max = d.GetMaxBodyBytes()
	if s.max == 0 {
		s.max = defaultBody
	}
	if s.max < 0 || s.max > maxBody {
		return fmt.Errorf("the service takes bodies of %d bytes, expected at most %d", s.max, maxBody)
	}
	s.hooks, s.known = hooks, true
	return nil
}

// fault says what went wrong with a call, in few words.
func fault(err error) error {
	if e, ok := errors.AsType[*connect.Error](err); ok {
		return fmt.Errorf("the service failed: %v: %s", e.Code(), clip(e.Message()))
	}
	return fmt.Errorf("the service failed: %s", clip(err.Error()))
}

// answer is what the answers to all hooks have in common.
type answer interface {
	GetDecision() middlewarev1.Decision
	GetReason() string
	GetFindings() []*middlewarev1.Finding
}

func (s *service) handle(ctx context.Context, m *Message) ([]Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, errors.New("the service is busy")
	}
	a, change, err := s.ask(ctx, m)
	if err != nil {
		return nil, err
	}
	if len(a.GetFindings()) > maxFindings {
		return nil, fmt.Errorf("the service has %d findings, expected at most %d", len(a.GetFindings()), maxFindings)
	}
	var found []Finding
	for _, f := range a.GetFindings() {
		found = append(found, Finding{Title: clip(f.GetTitle()), Detail: clip(f.GetDetail())})
	}
	switch a.GetDecision() {
	case middlewarev1.Decision_DECISION_ALLOW:
		return found, change.apply(m)
	case middlewarev1.Decision_DECISION_DENY:
		return found, &Denied{Reason: clip(a.GetReason())}
	}
	return nil, fmt.Errorf("the service gave the decision %d, which is none", a.GetDecision())
}

// ask puts a message to the service.
func (s *service) ask(ctx context.Context, m *Message) (answer, change, error) {
	t := &middlewarev1.Target{Method: m.Target.Method, Host: m.Target.Host, Port: uint32(m.Target.Port), Path: m.Target.Path, Query: m.Target.Query}
	if m.Hook == Text || m.Hook == Answer {
		a, err := s.client.EvaluateWebSocketMessage(ctx, &middlewarev1.EvaluateWebSocketMessageRequest{
			Config: s.settings, Target: t, FromServer: m.Hook == Answer, Binary: m.Binary, Message: m.Body,
		})
		if err != nil {
			return nil, change{}, fault(err)
		}
		return a, change{has: a.Message != nil, body: a.Message}, nil
	}
	headers, err := shown(m.Header)
	if err != nil {
		return nil, change{}, err
	}
	if m.Hook == Request {
		a, err := s.client.EvaluateHttpRequest(ctx, &middlewarev1.EvaluateHttpRequestRequest{Config: s.settings, Target: t, Headers: headers, Body: m.Body})
		if err != nil {
			return nil, change{}, fault(err)
		}
		return a, changeOf(a.GetChange()), nil
	}
	a, err := s.client.EvaluateHttpResponse(ctx, &middlewarev1.EvaluateHttpResponseRequest{
		Config: s.settings, Target: t, Status: int32(m.Status), Headers: headers, Body: m.Body,
	})
	if err != nil {
		return nil, change{}, fault(err)
	}
	return a, changeOf(a.GetChange()), nil
}

func shown(h http.Header) ([]*middlewarev1.Header, error) {
	var out []*middlewarev1.Header
	for name, values := range h {
		for _, v := range values {
			out = append(out, &middlewarev1.Header{Name: name, Value: strings.ToValidUTF8(v, "\ufffd")})
		}
	}
	if len(out) > maxHeaders {
		return nil, fmt.Errorf("%d headers, and the service is shown at most %d", len(out), maxHeaders)
	}
	return out, nil
}

// change is what a service wants to become of a message.
type change struct {
	set    []*middlewarev1.Header
	remove []string
	has    bool
	body   []byte
}

func changeOf(c *middlewarev1.Change) change {
	if c == nil {
		return change{}
	}
	return change{c.Set, c.Remove, c.Body != nil, c.Body}
}

func (c change) apply(m *Message) error {
	if len(c.set)+len(c.remove) > maxChanges {
		return fmt.Errorf("the service changes %d headers, expected at most %d", len(c.set)+len(c.remove), maxChanges)
	}
	for _, name := range c.remove {
		if name = http.CanonicalHeaderKey(name); !changeable(name, "") {
			return fmt.Errorf("the service removes the header %.80q, which it cannot", name)
		}
		m.Header.Del(name)
	}
	set := http.Header{}
	for _, h := range c.set {
		name := http.CanonicalHeaderKey(h.GetName())
		if !changeable(name, h.GetValue()) {
			return fmt.Errorf("the service sets the header %.80q, which it cannot", name)
		}
		set[name] = append(set[name], h.GetValue())
	}
	for name, values := range set {
		m.Header[name] = values
	}
	switch {
	case !c.has:
	case len(c.body) > maxBody:
		return fmt.Errorf("the service gives a body of %d bytes, expected at most %d", len(c.body), maxBody)
	case len(m.Body) > 0 && m.encoded():
		return errEncoded
	case (m.Hook == Text || m.Hook == Answer && !m.Binary) && !utf8.Valid(c.body):
		return errors.New("the service gives a text that is not UTF-8")
	default:
		m.replace(c.body)
	}
	return nil
}

// clip keeps what a service says to one short line.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
