package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
)

// badRequest is a request that must not be passed on; the text says why.
type badRequest string

func (e badRequest) Error() string { return string(e) }

func bad(format string, args ...any) error { return badRequest(fmt.Sprintf(format, args...)) }

// head is what the proxy itself reads of a request's head. The slices point
// into the bytes that were parsed.
type head struct {
	method, target []byte
	minor          byte // HTTP/1.minor
	host           []byte
	hosts          int
	body           bool // Content-Length above 0 or chunked
	framed         bool // Content-Length or Transfer-Encoding is there
	expect         bool
	upgrade        []byte
	connection     [][]byte // values of Connection
	fields         int
}

// maxFields bounds the number of header fields of one head.
const maxFields = 128

var endOfHead = []byte("\r\n\r\n")

// parseHead reads a request head, up to and with its empty line, by the letter
// of RFC 9112. Wherever the RFC lets a recipient be lenient (bare LF, folded
// lines, space before a colon, repeated or odd lengths, a second framing) it is
// an error: those are the places where two parsers disagree.
func parseHead(b []byte) (head, error) {
	var h head
	line, rest, err := cutLine(b)
	if err != nil {
		return h, err
	}
	if err := h.requestLine(line); err != nil {
		return h, err
	}
	var length, coding []byte
	for range maxFields + 1 {
		if line, rest, err = cutLine(rest); err != nil {
			return h, err
		}
		if len(line) == 0 {
			if len(rest) != 0 {
				return h, bad("bytes after the head")
			}
			return h, h.check(length, coding)
		}
		name, value, err := field(line)
		if err != nil {
			return h, err
		}
		h.fields++
		if err := h.keep(name, value, &length, &coding); err != nil {
			return h, err
		}
	}
	return h, bad("more than %d header fields", maxFields)
}

// cutLine takes one line that ends in CR LF. Neither byte may be elsewhere.
func cutLine(b []byte) (line, rest []byte, err error) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil, bad("head without end")
	}
	if i == 0 || b[i-1] != '\r' {
		return nil, nil, bad("line ends in LF without CR")
	}
	return b[:i-1], b[i+1:], nil
}

func (h *head) requestLine(line []byte) error {
	method, rest, ok1 := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !token(method) || len(target) == 0 {
		return bad("request line: expected method, target and version with single spaces")
	}
	for _, c := range target {
		if c <= ' ' || c >= 0x7f {
			return bad("request target: byte 0x%02x must be percent-encoded", c)
		}
	}
	switch string(version) {
	case "HTTP/1.1":
		h.minor = 1
	case "HTTP/1.0":
	default:
		return bad("version %.20q: expected HTTP/1.1 or HTTP/1.0", version)
	}
	h.method, h.target = method, target
	return nil
}

// field splits one header line. The value comes without the space around it.
func field(line []byte) (name, value []byte, err error) {
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, bad("folded header line")
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || !token(name) {
		return nil, nil, bad("header name %.40q is not a token", name)
	}
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, nil, bad("header %s: control byte 0x%02x", name, c)
		}
	}
	return name, bytes.Trim(value, " \t"), nil
}

// keep remembers the fields that decide where a request goes and where it ends.
func (h *head) keep(name, value []byte, length, coding *[]byte) error {
	switch {
	case is(name, "Host"):
		h.host = value
		if h.hosts++; h.hosts > 1 {
			return bad("more than one Host")
		}
	case is(name, "Content-Length"):
		if *length != nil {
			return bad("more than one Content-Length")
		}
		if !digits(value) {
			return bad("Content-Length %.40q is not a number", value)
		}
		*length = value
	case is(name, "Transfer-Encoding"):
		if *coding != nil {
			return bad("more than one Transfer-Encoding")
		}
		if !is(value, "chunked") {
			return bad("Transfer-Encoding %.40q: expected chunked", value)
		}
		*coding = value
	case is(name, "Connection"):
		h.connection = append(h.connection, value)
	case is(name, "Upgrade"):
		if h.upgrade != nil {
			return bad("more than one Upgrade")
		}
		h.upgrade = value
	case is(name, "HTTP2-Settings"):
		return bad("upgrade to h2c is not offered")
	case is(name, "Expect"):
		if h.expect || !is(value, "100-continue") {
			return bad("Expect %.40q: expected 100-continue", value)
		}
		h.expect = true
	}
	return nil
}

// check judges the fields together.
func (h *head) check(length, coding []byte) error {
	switch {
	case h.hosts == 0 && h.minor == 1 && string(h.method) != "CONNECT":
		return bad("no Host")
	case length != nil && coding != nil:
		return bad("both Content-Length and Transfer-Encoding")
	case coding != nil && h.minor == 0:
		return bad("Transfer-Encoding in HTTP/1.0")
	case h.upgrade != nil && !is(h.upgrade, "websocket"):
		return bad("Upgrade %.40q: only websocket is known", h.upgrade)
	}
	for _, v := range h.connection {
		for name := range bytes.SplitSeq(v, []byte(",")) {
			if name = bytes.Trim(name, " \t"); nominated(name) {
				return bad("Connection nominates %s", name)
			}
		}
	}
	h.framed = length != nil || coding != nil
	h.body = coding != nil || len(bytes.TrimLeft(length, "0")) > 0
	return nil
}

// nominated tells whether Connection would take away a field that decides how a
// request is read.
func nominated(name []byte) bool {
	for _, f := range [...]string{"Host", "Content-Length", "Transfer-Encoding", "Content-Type", "Content-Encoding", "Authorization", "Expect"} {
		if is(name, f) {
			return true
		}
	}
	return false
}

// is compares field names, which have no case.
func is(b []byte, s string) bool { return len(b) == len(s) && strings.EqualFold(string(b), s) }

// digits is true for a length: at most 15 digits, no sign, no list.
func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0 && len(b) <= 15
}

// tokenBytes are the bytes of a token, RFC 9110, section 5.6.2.
var tokenBytes = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

func token(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(b) > 0 && len(b) <= 256
}

// request takes from br the request whose head is b, and of which h was read. The
// framing of a body is the work of net/http; without one there is nothing left
// to be found out.
func (h *head) request(b []byte, br *bufio.Reader) (*http.Request, error) {
	if h.framed || h.upgrade != nil {
		return http.ReadRequest(br)
	}
	r := &http.Request{
		Method: string(h.method), ProtoMajor: 1, ProtoMinor: int(h.minor), Host: string(h.host),
		Header: h.header(string(b)), Body: http.NoBody,
	}
	for _, v := range h.connection {
		for name := range bytes.SplitSeq(v, []byte(",")) {
			r.Close = r.Close || is(bytes.Trim(name, " \t"), "close")
		}
	}
	_, err := br.Discard(len(b))
	return r, err
}

// header gives the fields of a head that parseHead has accepted, without Host.
// Names and values are parts of it.
func (h *head) header(text string) http.Header {
	out := make(http.Header, h.fields)
	values := make([]string, 0, h.fields) // all of them in one piece of memory
	_, text, _ = strings.Cut(text, "\r\n")
	for range h.fields {
		line, rest, _ := strings.Cut(text, "\r\n")
		text = rest
		name, value, _ := strings.Cut(line, ":")
		name = textproto.CanonicalMIMEHeaderKey(name)
		if name == "Host" {
			continue
		}
		values = append(values, strings.Trim(value, " \t"))
		if had, ok := out[name]; ok {
			out[name] = append(had, values[len(values)-1])
			continue
		}
		out[name] = values[len(values)-1 : len(values) : len(values)]
	}
	return out
}
