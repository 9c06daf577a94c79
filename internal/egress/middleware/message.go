package middleware

import (
	"net/http"
	"strings"
)

// Hook is a kind of message.
type Hook uint8

// The hooks.
const (
	Request  Hook = iota + 1
	Response      // one event of a text/event-stream is a message, too
	Text          // of a WebSocket client
	Answer        // a message of a WebSocket server
)

// Message is what middlewares see of one message. They change Header in place and replace Body.
type Message struct {
	Hook   Hook
	Target Target
	Status int         // of a Response
	Header http.Header // nil for Text and Answer
	Binary bool        // of an Answer: it is no text
	Body   []byte
	// TooLarge says that there is more of the body than [Stages.Limit], and Body holds none of it. It cannot be
	// changed.
	TooLarge bool
}

// Target is where a message goes, or for an answer, where its request went.
type Target struct {
	Method, Host string
	Port         uint16
	Path, Query  string // canonical
}

// Finding is something to be reported about a message that passed.
type Finding struct {
	Middleware string // its key in the policy
	Title      string
	Detail     string
}

// Denied is a message that a middleware refuses.
type Denied struct {
	Middleware string
	Reason     string // a sentence for the agent
}

func (e *Denied) Error() string { return "middleware " + e.Middleware + ": " + e.Reason }

// Failed is a message that a middleware which fails closed could not handle.
type Failed struct {
	Middleware string
	Err        error
}

func (e *Failed) Error() string { return "middleware " + e.Middleware + ": " + e.Err.Error() }

// Unwrap gives the reason.
func (e *Failed) Unwrap() error { return e.Err }

// fixed are headers that middlewares cannot change: they frame the message, say where it goes, or would make of
// it another one than the one that was judged.
var fixed = map[string]bool{
	"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Keep-Alive": true, "Te": true,
	"Trailer": true, "Upgrade": true, "Expect": true, "Content-Encoding": true, "Http2-Settings": true, "Proxy-Connection": true,
	"Proxy-Authorization": true, "Proxy-Authenticate": true, "Range": true,
}

// changeable tells whether a header can be changed to value. name is canonical.
func changeable(name, value string) bool {
	if name == "" || len(name) > 128 || len(value) > 8<<10 || fixed[name] || strings.HasPrefix(name, "Sec-Websocket-") {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// encoded tells whether a body is not what its type says until it is decoded.
func (m *Message) encoded() bool {
	for _, v := range m.Header["Content-Encoding"] {
		if !strings.EqualFold(v, "identity") {
			return true
		}
	}
	return false
}

// digests are headers about a body that has been changed.
var digests = []string{"Content-Md5", "Content-Digest", "Repr-Digest", "Digest", "Etag"}

// replace gives a message another body.
func (m *Message) replace(body []byte) {
	m.Body = body
	for _, name := range digests {
		m.Header.Del(name)
	}
}
