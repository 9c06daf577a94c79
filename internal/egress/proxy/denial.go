package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"sallyport/internal/event"
)

// code is the stable name of a refusal: "error" in the answer.
type code string

const (
	badRequestCode      code = "bad_request"
	headTimeout         code = "head_timeout"
	headTooLarge        code = "head_too_large"
	tooMany             code = "too_many_connections"
	policyDenied        code = "policy_denied"
	ssrfDenied          code = "ssrf_denied"
	identityChanged     code = "identity_changed"
	identityUnknown     code = "identity_unknown"
	proxyLoop           code = "proxy_loop"
	noName              code = "no_name"
	nameMismatch        code = "name_mismatch"
	notInspected        code = "inspection_unavailable"
	unavailable         code = "unavailable"
	upstreamUnreachable code = "upstream_unreachable"
	upstreamTimeout     code = "upstream_timeout"
	upstreamInvalid     code = "upstream_invalid"
	upstreamCertificate code = "upstream_certificate"
	bodyTooLarge        code = "body_too_large"
	protocolUnknown     code = "protocol_unknown"
	credentialRefused   code = "credential_refused"
	middlewareDenied    code = "middleware_denied"
	middlewareFailed    code = "middleware_failed"
)

// outcomes has a row for each code.
var outcomes = map[code]struct {
	status int
	phrase string
	steps  []string // what the agent can do
}{
	badRequestCode:      {400, "Bad Request", []string{"send one well-formed request: the detail says what is wrong with this one; a client of the proxy itself says CONNECT host:port, or an absolute http:// URI"}},
	headTimeout:         {408, "Request Timeout", nil},
	headTooLarge:        {431, "Request Header Fields Too Large", []string{"send fewer or shorter headers"}},
	tooMany:             {429, "Too Many Requests", []string{"close connections that are not needed, then try again"}},
	policyDenied:        {403, "Forbidden", []string{"do without this destination, or ask the person who runs this sandbox for the rule in rule_missing"}},
	ssrfDenied:          {403, "Forbidden", []string{"use a public destination, or ask the person who runs this sandbox: private addresses need allowed_ips, services of the host need host_services"}},
	identityChanged:     {403, "Forbidden", []string{"restore the program's file, or ask for a new sandbox"}},
	identityUnknown:     {403, "Forbidden", []string{"run the request from an ordinary program file"}},
	proxyLoop:           {403, "Forbidden", []string{"name the destination itself, not the proxy"}},
	noName:              {403, "Forbidden", []string{"connect by host name, so that a rule can be found; TLS clients must send a server name"}},
	nameMismatch:        {421, "Misdirected Request", []string{"open a connection of its own for each host"}},
	notInspected:        {503, "Service Unavailable", []string{"ask the person who runs this sandbox to change the endpoint's rules"}},
	unavailable:         {503, "Service Unavailable", []string{"try again"}},
	upstreamUnreachable: {502, "Bad Gateway", []string{"the destination is allowed but cannot be reached: check its name and port, then try again"}},
	upstreamTimeout:     {504, "Gateway Timeout", []string{"the destination is allowed but does not answer: try again"}},
	upstreamInvalid:     {502, "Bad Gateway", []string{"the destination's answer cannot be read"}},
	upstreamCertificate: {502, "Bad Gateway", []string{"the destination did not prove who it is; a server with a private authority needs --upstream-ca"}},
	bodyTooLarge:        {413, "Content Too Large", []string{"send a smaller body: this endpoint's rules look inside"}},
	protocolUnknown:     {403, "Forbidden", []string{"speak HTTP or HTTPS on this connection: this endpoint's rules look inside"}},
	middlewareDenied:    {403, "Forbidden", []string{"leave out what the middleware refuses, or ask the person who runs this sandbox"}},
	middlewareFailed:    {503, "Service Unavailable", []string{"try again; if it stays, ask the person who runs this sandbox to look at the middleware"}},
	credentialRefused:   {403, "Forbidden", []string{"use the placeholder only where it is bound: its host, port, path and header"}},
}

// denial is a verdict against an intent.
type denial struct {
	code     code
	detail   string // a sentence, for the agent too
	reason   string // finer than code; the same if empty
	cause    error  // for the person only
	decision Decision
	addr     netip.Addr
	missing  *rule
	failed   bool // it was allowed, and did not work
	stale    bool // a kept connection was closed before it could carry the request
}

// rule is what would have to be added to the policy, and no more.
type rule struct {
	Type       string         `json:"type"` // network_policy, allowed_ips, or rest_allow, graphql_allow and so on
	Host       string         `json:"host"`
	Port       uint16         `json:"port"`
	Binary     string         `json:"binary,omitempty"`
	Policy     string         `json:"policy,omitempty"` // key of the network policy to change
	AllowedIPs []netip.Prefix `json:"allowed_ips,omitempty"`

	Method        string   `json:"method,omitempty"`
	Path          string   `json:"path,omitempty"`
	OperationType string   `json:"operation_type,omitempty"`
	Fields        []string `json:"fields,omitempty"`
	Tool          []string `json:"tool,omitempty"`
}

func (m *Missing) rule() *rule {
	if m == nil {
		return nil
	}
	r := &rule{Type: "network_policy", Host: m.Host, Port: m.Port, Binary: m.Binary, Policy: m.Policy}
	if a := m.Allow; a != nil {
		r.Type = string(m.Protocol) + "_allow"
		r.Method, r.Path, r.OperationType, r.Fields, r.Tool = a.Method, a.Path, a.OperationType, a.Fields, a.Tool
	}
	return r
}

// answer is the body that the agent gets. The keys are those that agents know
// from OpenShell, where the meaning is the same.
type answer struct {
	Error       code     `json:"error"`
	Detail      string   `json:"detail"`
	Reason      string   `json:"reason"`
	Layer       string   `json:"layer"` // l4: the connection; l7: a request
	Host        string   `json:"host,omitempty"`
	Port        uint16   `json:"port,omitempty"`
	Binary      string   `json:"binary,omitempty"`
	Method      string   `json:"method,omitempty"`
	Path        string   `json:"path,omitempty"`
	Policy      string   `json:"policy,omitempty"`
	RuleMissing *rule    `json:"rule_missing"`
	NextSteps   []string `json:"next_steps"`
	ID          string   `json:"id,omitempty"`
}

// form is how a refusal can be told to a client.
type form uint8

const (
	formHTTP  form = iota // an answer with a body
	formTLS               // an alert
	formReset             // nothing but the end
)

// tlsAlert is a fatal access_denied, RFC 8446, section 6.
var tlsAlert = []byte{21, 3, 3, 0, 2, 2, 49}

// Bounds of the end of a refused connection: how long and how much is read, so
// that closing with bytes unread does not destroy the answer on its way.
const (
	lingerTime  = time.Second
	lingerBytes = 4 << 20
)

// refuse makes the event of a denial, tells the client and ends the connection.
func (x *session) refuse(in intent, no *denial, how form) {
	id := x.record(in, no)
	x.client.SetDeadline(time.Now().Add(lingerTime))
	switch how {
	case formHTTP:
		x.wire.Write(x.response(in, no, id))
	case formTLS:
		x.client.Write(tlsAlert)
	case formReset:
		x.client.SetLinger(0)
		return
	}
	x.farewell()
}

// farewell ends a connection so that the answer that was written last arrives:
// closing with bytes unread would destroy it.
func (x *session) farewell() {
	x.client.SetDeadline(time.Now().Add(lingerTime))
	if x.wire.CloseWrite() != nil {
		return
	}
	if x.wire != conn(x.client) {
		x.client.CloseWrite()
	}
	io.CopyN(struct{ io.Writer }{io.Discard}, x.client, lingerBytes)
}

// record makes the event of a denial and gives the id that it got.
func (x *session) record(in intent, no *denial) (id string) {
	if no.reason == "" {
		no.reason = string(no.code)
	}
	if !no.failed && x.denialID != nil {
		id = x.denialID()
	}
	x.emit(x.denied(in, no, id))
	return id
}

// denied is the event.
func (x *session) denied(in intent, no *denial, id string) event.Event {
	d := no.decision
	v := event.Verdict{
		Disposition: event.Blocked, Reason: no.reason, Detail: no.detail,
		Policy: d.Policy, Generation: d.Generation, Rule: d.Rule, Line: d.Line,
	}
	if no.cause != nil {
		v.Detail += ": " + no.cause.Error()
	}
	where := event.Where{Host: in.host, Port: in.port, Addr: no.addr}
	if !where.Addr.IsValid() {
		where.Addr = in.addr
	}
	activity := event.Refuse
	if no.failed {
		activity, v.Disposition = event.Fail, event.Allowed
	}
	var e event.Event
	if in.method != "" && in.method != "CONNECT" {
		e = event.Request(in.http(outcomes[no.code].status), x.who, where, v)
	} else {
		e = event.Connection(activity, x.who, where, v)
	}
	e.Metadata.UID = id
	return e
}

func (in intent) http(status int) event.HTTP {
	path, query, _ := strings.Cut(in.path, "?")
	h := event.HTTP{Method: in.method, Scheme: "http", Path: path, RawQuery: query, Version: "1.0", UserAgent: in.agent, Status: status, Operations: in.operations}
	switch {
	case in.h2:
		h.Version = "2"
	case in.minor == 1:
		h.Version = "1.1"
	}
	if in.tls {
		h.Scheme = "https"
	}
	return h
}

// response is the whole HTTP/1 answer. The detail is in the status line too: that
// is all that many clients show of an answer to CONNECT.
func (x *session) response(in intent, no *denial, id string) []byte {
	kind, body := x.body(in, no, id)
	h := fmt.Sprintf("HTTP/1.1 %d %s: %s\r\nX-Sallyport-Policy: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		outcomes[no.code].status, outcomes[no.code].phrase, printable(no.detail), no.tag(id), kind, len(body))
	if in.method == "HEAD" {
		return []byte(h)
	}
	return append([]byte(h), body...)
}

// tag is the value of X-Sallyport-Policy.
func (no *denial) tag(id string) string {
	if id == "" {
		return "error=" + string(no.code)
	}
	return "error=" + string(no.code) + "; id=" + id
}

// body is what the agent is told, as JSON, and its media type. git shows text
// to who runs it, and nothing else (show_http_message of its remote-curl.c).
func (x *session) body(in intent, no *denial, id string) (kind string, body []byte) {
	layer := "l4"
	if in.method != "" && in.method != "CONNECT" {
		layer = "l7"
	}
	steps := append([]string{}, outcomes[no.code].steps...)
	if id != "" {
		steps = append(steps, "the person who runs this sandbox learns more from: sallyport policy explain "+id)
	}
	path, _, _ := strings.Cut(in.path, "?")
	if strings.HasPrefix(in.agent, "git/") {
		text := fmt.Sprintf("sallyport: %s: %s (%s:%d)\n", no.code, printable(no.detail), in.host, in.port)
		if rule, err := json.Marshal(no.missing); err == nil && no.missing != nil {
			text += "rule_missing: " + string(rule) + "\n"
		}
		for _, s := range steps {
			text += "next: " + s + "\n"
		}
		return "text/plain", []byte(text)
	}
	body, err := json.Marshal(answer{
		Error: no.code, Detail: no.detail, Reason: no.reason, Layer: layer, Host: in.host, Port: in.port, Binary: x.who.Exe,
		Method: in.method, Path: path, Policy: no.decision.Policy, RuleMissing: no.missing, NextSteps: steps, ID: id,
	})
	if err != nil {
		body = []byte(`{"error":"` + string(no.code) + `"}`)
	}
	return "application/json", append(body, '\n')
}

// printable makes text fit for a status line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '.'
		}
		return r
	}, s)
	return s[:min(len(s), 160)]
}
