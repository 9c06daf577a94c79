package inject

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/internal/policy"
	"sallyport/internal/policy/profile"
	"sallyport/internal/secret"
)

const (
	ph     = "ghp_PlaceholderPlaceholderPlaceholder00"
	canary = "ghp_RealCanary+7/x=9f3a1c55e2aaaabbbb"
)

// held is a Source that a test changes.
type held struct {
	mu      sync.Mutex
	value   string
	err     error
	refused int
}

func (h *held) Value(context.Context) (secret.Value, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return secret.Value{}, h.err
	}
	v, err := secret.New([]byte(h.value))
	return v, err
}

func (h *held) Refused() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused++
}

var clock = func() time.Time { return time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC) }

// credential is one of every place, bound to api.example on 443 below /v1, and
// without TLS to dev.example.
func credential(src Source) Credential {
	return Credential{
		Provider: "forge", Name: "token", Placeholder: ph, Source: src,
		Places: []profile.Place{
			{Kind: profile.Header, Name: "X-Api-Key"}, {Kind: profile.Header, Name: "Authorization", Scheme: "Bearer"},
			{Kind: profile.Basic, Name: "Authorization"}, {Kind: profile.Query, Name: "key"}, {Kind: profile.Path, Scheme: "bot"},
		},
		Endpoints: []profile.Endpoint{{Host: "api.example", Port: 443, Path: "/v1/**"}, {Host: "dev.example", Port: 80, HTTP: true}},
	}
}

func injector(t *testing.T, creds ...Credential) *Injector {
	t.Helper()
	in, err := New(creds, clock)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func endpoint(change func(*policy.Endpoint)) *policy.Endpoint {
	e := &policy.Endpoint{Host: "api.example", Ports: []uint16{443}, Protocol: policy.REST}
	if change != nil {
		change(e)
	}
	return e
}

// outgoing builds a request from lines "Name: value"; the first one is method
// and URL.
func outgoing(t *testing.T, first, body string, headers ...string) *http.Request {
	t.Helper()
	method, target, _ := strings.Cut(first, " ")
	var r *http.Request
	var err error
	if body == "" {
		r, err = http.NewRequest(method, target, nil)
	} else {
		r, err = http.NewRequest(method, target, strings.NewReader(body))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func codeOf(err error) Code {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	if err != nil {
		return Code(err.Error())
	}
	return ""
}
