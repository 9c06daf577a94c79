package websocket

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The key and its answer are those of RFC 6455, section 1.3.
const (
	rfcKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	rfcAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func asked(pairs ...string) http.Header {
	return headers(append([]string{"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", rfcKey}, pairs...)...)
}

// subprotocols are p0, p1 and so on.
func subprotocols(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint("p", i)
	}
	return strings.Join(list, ", ")
}

func TestHandshake(t *testing.T) {
	const (
		ext  = "Sec-WebSocket-Extensions"
		both = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	)
	for _, c := range []struct {
		name                   string
		client, up, answer, to http.Header
	}{
		{"plain", asked(), asked(), headers("Sec-WebSocket-Accept", rfcAccept), headers("Sec-WebSocket-Accept", rfcAccept)},
		{"subprotocol", asked("Sec-WebSocket-Protocol", "a, b", "Sec-WebSocket-Protocol", "c"), asked("Sec-WebSocket-Protocol", "a, b, c"),
			headers("Sec-WebSocket-Accept", rfcAccept, "Sec-WebSocket-Protocol", "b"), headers("Sec-WebSocket-Accept", rfcAccept, "Sec-WebSocket-Protocol", "b")},
		{"as many subprotocols as may be", asked("Sec-WebSocket-Protocol", subprotocols(32)), asked("Sec-WebSocket-Protocol", subprotocols(32)),
			headers("Sec-WebSocket-Accept", rfcAccept, "Sec-WebSocket-Protocol", "p31"), headers("Sec-WebSocket-Accept", rfcAccept, "Sec-WebSocket-Protocol", "p31")},
		{"as many extensions as may be", asked(ext, subprotocols(31)+", permessage-deflate"), asked(ext, both), headers("Sec-WebSocket-Accept", rfcAccept), headers("Sec-WebSocket-Accept", rfcAccept)},
		{"compression", asked(ext, "permessage-deflate; client_max_window_bits"), asked(ext, both),
			headers("Sec-WebSocket-Accept", rfcAccept, ext, both), headers("Sec-WebSocket-Accept", rfcAccept, ext, both)},
		{"compression that the client is not told to limit", asked(ext, "permessage-deflate"), asked(ext, both),
			headers("Sec-WebSocket-Accept", rfcAccept, ext, "permessage-deflate; server_no_context_takeover"), headers("Sec-WebSocket-Accept", rfcAccept, ext, both)},
		{"window of the server", asked(ext, "permessage-deflate; server_max_window_bits=10, permessage-deflate"), asked(ext, both+"; server_max_window_bits=10"),
			headers("Sec-WebSocket-Accept", rfcAccept, ext, both+"; server_max_window_bits=9"), headers("Sec-WebSocket-Accept", rfcAccept, ext, both+"; server_max_window_bits=9")},
		{"other extensions are left out", asked(ext, "x-frame-options-deflate, mux; max=4, permessage-deflate"), asked(ext, both),
			headers("Sec-WebSocket-Accept", rfcAccept), headers("Sec-WebSocket-Accept", rfcAccept)},
		{"only other extensions", asked(ext, "mux"), asked(), headers("Sec-WebSocket-Accept", rfcAccept), headers("Sec-WebSocket-Accept", rfcAccept)},
		{"compression that is not understood", asked(ext, "permessage-deflate; new=1"), asked(), headers("Sec-WebSocket-Accept", rfcAccept), headers("Sec-WebSocket-Accept", rfcAccept)},
		{"headers that do not belong here", asked("Cookie", "a=b"), asked(), headers("Sec-WebSocket-Accept", rfcAccept, "Set-Cookie", "a=b"), headers("Sec-WebSocket-Accept", rfcAccept)},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := ReadOffer(c.client)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.up, o.Header()); diff != "" {
				t.Errorf("to the server (-want +got):\n%s", diff)
			}
			a, err := o.Accept(c.answer)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.to, a.Header()); diff != "" {
				t.Errorf("to the client (-want +got):\n%s", diff)
			}
			if a.Deflate != (c.answer.Get(ext) != "") {
				t.Errorf("Deflate = %v after %v", a.Deflate, c.answer)
			}
		})
	}
}

func TestOfferRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		h    http.Header
	}{
		{"no version", headers("Sec-WebSocket-Key", rfcKey)},
		{"old version", headers("Sec-WebSocket-Version", "8", "Sec-WebSocket-Key", rfcKey)},
		{"two versions", headers("Sec-WebSocket-Version", "13", "Sec-WebSocket-Version", "8", "Sec-WebSocket-Key", rfcKey)},
		{"no key", headers("Sec-WebSocket-Version", "13")},
		{"two keys", asked("Sec-WebSocket-Key", rfcKey)},
		{"short key", headers("Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhl")},
		{"key that is not base64", headers("Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=!")},
		{"key with bits behind it", headers("Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZR==")},
		{"subprotocol twice", asked("Sec-WebSocket-Protocol", "a, a")},
		{"subprotocol that is no token", asked("Sec-WebSocket-Protocol", `"a"`)},
		{"subprotocol with a line end", asked("Sec-WebSocket-Protocol", "a\r\nX: b")},
		{"one subprotocol too many", asked("Sec-WebSocket-Protocol", subprotocols(33))},
		{"thousands of subprotocols", asked("Sec-WebSocket-Protocol", subprotocols(1000))},
		{"one extension too many", asked("Sec-WebSocket-Extensions", subprotocols(33))},
	} {
		t.Run(c.name, func(t *testing.T) {
			if o, err := ReadOffer(c.h); err == nil {
				t.Errorf("ReadOffer(%v) = %+v, want an error", c.h, o)
			}
		})
	}
}

func TestAnswerRefused(t *testing.T) {
	const ext = "Sec-WebSocket-Extensions"
	for _, c := range []struct {
		name           string
		client, answer http.Header
	}{
		{"no key", asked(), headers()},
		{"wrong key", asked(), headers("Sec-WebSocket-Accept", rfcKey)},
		{"subprotocol not offered", asked("Sec-WebSocket-Protocol", "a"), headers("Sec-WebSocket-Accept", rfcAccept, "Sec-WebSocket-Protocol", "b")},
		{"subprotocol though none was offered", asked(), headers("Sec-WebSocket-Accept", rfcAccept, "Sec-WebSocket-Protocol", "a")},
		{"two subprotocols", asked("Sec-WebSocket-Protocol", "a, b"), headers("Sec-WebSocket-Accept", rfcAccept, "Sec-WebSocket-Protocol", "a", "Sec-WebSocket-Protocol", "b")},
		{"compression not offered", asked(), headers("Sec-WebSocket-Accept", rfcAccept, ext, "permessage-deflate; server_no_context_takeover")},
		{"compression with takeover", asked(ext, "permessage-deflate"), headers("Sec-WebSocket-Accept", rfcAccept, ext, "permessage-deflate")},
		{"compression twice", asked(ext, "permessage-deflate"), headers("Sec-WebSocket-Accept", rfcAccept, ext, "permessage-deflate; server_no_context_takeover, permessage-deflate; server_no_context_takeover")},
		{"window of the client", asked(ext, "permessage-deflate; client_max_window_bits"), headers("Sec-WebSocket-Accept", rfcAccept, ext, "permessage-deflate; server_no_context_takeover; client_max_window_bits=10")},
		{"parameter twice", asked(ext, "permessage-deflate"), headers("Sec-WebSocket-Accept", rfcAccept, ext, "permessage-deflate; server_no_context_takeover; server_no_context_takeover")},
		{"another extension", asked(ext, "permessage-deflate, mux"), headers("Sec-WebSocket-Accept", rfcAccept, ext, "mux")},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := ReadOffer(c.client)
			if err != nil {
				t.Fatal(err)
			}
			if a, err := o.Accept(c.answer); err == nil {
				t.Errorf("Accept(%v) = %+v, want an error", c.answer, a)
			}
		})
	}
}
