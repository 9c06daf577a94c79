package websocket

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Offer is what a client's handshake asks for. Its key is sent on as it is, so the server's answer to it is an
// answer to the client.
type Offer struct {
	Key       string
	Protocols []string
	Deflate   bool // the client can do permessage-deflate
	bits      int  // server_max_window_bits of the client's offer; 0: none
}

// ReadOffer reads the headers of an upgrade request. Extensions other than permessage-deflate are left out of
// what goes upstream: the frames of an extension that is not known cannot be judged.
func ReadOffer(h http.Header) (Offer, error) {
	var o Offer
	if v := h["Sec-Websocket-Version"]; len(v) != 1 || v[0] != "13" {
		return o, fmt.Errorf("expected Sec-WebSocket-Version: 13, found %.40q", v)
	}
	key := h["Sec-Websocket-Key"]
	if len(key) != 1 {
		return o, fmt.Errorf("expected one Sec-WebSocket-Key, found %d", len(key))
	}
	if raw, err := base64.StdEncoding.Strict().DecodeString(key[0]); err != nil || len(raw) != 16 {
		return o, fmt.Errorf("the Sec-WebSocket-Key is not 16 bytes in base64")
	}
	o.Key = key[0]
	protocols, err := list(h["Sec-Websocket-Protocol"])
	if err != nil {
		return o, err
	}
	for _, p := range protocols {
		if !token(p) || slices.Contains(o.Protocols, p) {
			return o, fmt.Errorf("the Sec-WebSocket-Protocol %.40q is no token, or is there twice", p)
		}
		o.Protocols = append(o.Protocols, p)
	}
	offers, err := list(h["Sec-Websocket-Extensions"])
	if err != nil {
		return o, err
	}
	for _, offer := range offers {
		if p, err := deflateParams(offer); err == nil && p != nil && !o.Deflate {
			o.Deflate, o.bits = true, p.serverBits
		}
	}
	return o, nil
}

// Header gives the headers of the handshake that go to the server.
func (o Offer) Header() http.Header {
	h := http.Header{"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {o.Key}}
	if len(o.Protocols) > 0 {
		h.Set("Sec-Websocket-Protocol", strings.Join(o.Protocols, ", "))
	}
	if o.Deflate {
		h.Set("Sec-Websocket-Extensions", deflate{noTakeover: true, serverBits: o.bits}.String())
	}
	return h
}

// Agreed is what a handshake came to.
type Agreed struct {
	Protocol string // the subprotocol; empty if there is none
	Deflate  bool
	key      string
	ext      deflate
}

// Accept reads the headers of the server's answer with status 101.
func (o Offer) Accept(h http.Header) (Agreed, error) {
	a := Agreed{key: acceptKey(o.Key)}
	if v := h["Sec-Websocket-Accept"]; len(v) != 1 || v[0] != a.key {
		return a, fmt.Errorf("the server's Sec-WebSocket-Accept does not fit the key")
	}
	if v := h["Sec-Websocket-Protocol"]; len(v) > 0 {
		if len(v) > 1 || !slices.Contains(o.Protocols, v[0]) {
			return a, fmt.Errorf("the server chose the subprotocol %.40q, which was not offered", v)
		}
		a.Protocol = v[0]
	}
	ext, err := list(h["Sec-Websocket-Extensions"])
	if err != nil || len(ext) == 0 {
		return a, err
	}
	p, err := deflateParams(ext[0])
	if err != nil || p == nil || len(ext) > 1 || !o.Deflate || !p.noTakeover || p.clientBits {
		return a, fmt.Errorf("the server chose the extension %.80q, which was not offered", ext)
	}
	a.Deflate, a.ext = true, *p
	return a, nil
}

// Header gives the headers of the answer that go to the client.
func (a Agreed) Header() http.Header {
	h := http.Header{"Sec-Websocket-Accept": {a.key}}
	if a.Protocol != "" {
		h.Set("Sec-Websocket-Protocol", a.Protocol)
	}
	if a.Deflate {
		h.Set("Sec-Websocket-Extensions", deflate{noTakeover: true, serverBits: a.ext.serverBits}.String())
	}
	return h
}

// acceptKey is the answer to a key (RFC 6455, section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// deflate are the parameters of permessage-deflate (RFC 7692, section 7.1).
type deflate struct {
	noTakeover bool // server_no_context_takeover; that of the client is asked for and told always
	serverBits int
	clientBits bool
}

func (d deflate) String() string {
	s := "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	if d.serverBits > 0 {
		s += "; server_max_window_bits=" + strconv.Itoa(d.serverBits)
	}
	return s
}

// deflateParams reads one extension; nil without an error is another one.
func deflateParams(ext string) (*deflate, error) {
	name, rest, _ := strings.Cut(ext, ";")
	if strings.TrimSpace(name) != "permessage-deflate" {
		return nil, nil
	}
	var d deflate
	seen := map[string]bool{}
	for p := range strings.SplitSeq(rest, ";") {
		name, value, has := strings.Cut(strings.TrimSpace(p), "=")
		value = strings.Trim(value, `"`)
		bits, err := strconv.Atoi(value)
		inRange := err == nil && 8 <= bits && bits <= 15 && len(value) < 3
		switch {
		case name == "" && !has && rest == "":
			continue
		case seen[name]:
			return nil, fmt.Errorf("%.40q is there twice", name)
		case name == "client_no_context_takeover" && !has:
		case name == "server_no_context_takeover" && !has:
			d.noTakeover = true
		case name == "server_max_window_bits" && inRange:
			d.serverBits = bits
		case name == "client_max_window_bits" && (inRange || !has):
			d.clientBits = true
		default:
			return nil, fmt.Errorf("permessage-deflate has no parameter %.40q", p)
		}
		seen[name] = true
	}
	return &d, nil
}

// list splits the values of a header at commas. There are no quoted commas in what is read here.
func list(values []string) ([]string, error) {
	var out []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.Trim(part, " \t"); part != "" {
				out = append(out, part)
			}
		}
	}
	if len(out) > 32 {
		return nil, fmt.Errorf("a header of the handshake lists %d things, the limit is 32", len(out))
	}
	return out, nil
}

func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
}
