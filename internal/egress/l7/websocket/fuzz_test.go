package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

// script is a connection whose other side has said all that it will say.
type script struct {
	io.Reader
	out bytes.Buffer
}

func (s *script) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *script) Close() error                { return nil }

// FuzzRelay: whatever both sides say, the relay ends; what the server gets are frames that obey the protocol,
// and each text message in them was judged.
func FuzzRelay(f *testing.F) {
	masked := func(first byte, payload string) []byte {
		h := header{fin: first&fin != 0, rsv1: first&rsv1 != 0, op: first & 0xf, masked: true, mask: [4]byte{9, 8, 7, 6}, length: int64(len(payload))}
		b := []byte(payload)
		mask(b, h.mask, 0)
		return append(h.append(nil), b...)
	}
	for _, frames := range [][]frame{
		{{fin | opText, "hello"}, {fin | opClose, "\x03\xe8"}},
		{{opText, "a"}, {fin | opPing, "p"}, {fin | opContinue, "b"}},
		{{fin | rsv1 | opText, deflated(f, "compressed")}, {fin | opBinary, "\xff"}},
		{{fin | opText, "\xff"}}, {{fin | opClose, "x"}}, {{0x20, ""}},
		{{fin | opText, strings.Repeat("x", 200)}}, {{rsv1 | opText, "\xff"}, {fin | opContinue, "\xff"}},
	} {
		var b []byte
		for _, fr := range frames {
			b = append(b, masked(fr.first, fr.payload)...)
		}
		f.Add(b, []byte("\x81\x02hi\x88\x02\x03\xe8"), true, true)
		f.Add(b, []byte("\x01\x01h\x80\x01i"), false, false)
	}
	f.Fuzz(func(t *testing.T, fromClient, fromServer []byte, deflate, binary bool) {
		client, server := &script{Reader: bytes.NewReader(fromClient)}, &script{Reader: bytes.NewReader(fromServer)}
		judged := map[string]bool{}
		budget := NewBudget(1 << 20)
		_, err := Relay(t.Context(), client, server, Options{
			Deflate: deflate, Binary: binary, MaxMessage: 1 << 10, MaxFragments: 8, Budget: budget,
			Judge: func(text []byte) ([]byte, error) {
				if !utf8.Valid(text) || len(text) > 1<<10 {
					t.Errorf("the judge is shown %q", text)
				}
				judged[string(text)] = true
				return text, nil
			},
		})
		if why, ok := errors.AsType[*CloseError](err); ok && (why.Code < 1000 || why.Reason == "") {
			t.Errorf("Relay(%q) = %v", fromClient, err)
		}
		if left := budget.left.Load(); left != 1<<20 {
			t.Errorf("the budget has %d left", left)
		}
		checkFrames(t, &server.out, true, deflate, func(op byte, payload string) {
			if op == opText && !judged[payload] {
				t.Errorf("the server got %q, which was not judged", payload)
			}
			if op == opBinary && !binary {
				t.Errorf("the server got the binary %q", payload)
			}
		})
		checkFrames(t, &client.out, false, deflate, func(byte, string) {})
	})
}

// checkFrames reads what a side was sent; only the last frame may be cut off, and none follows a Close.
func checkFrames(t *testing.T, out *bytes.Buffer, toServer, deflate bool, see func(op byte, payload string)) {
	s := side{t, nil, bufio.NewReader(out)}
	for closed := false; ; {
		h, err := readHeader(s.r, toServer, deflate)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if err != nil || closed {
			t.Fatalf("a side was sent %+v after a Close: %v, %v", h, closed, err)
		}
		b := make([]byte, min(h.length, 1<<20))
		if _, err := io.ReadFull(s.r, b); err != nil {
			return
		}
		if h.masked {
			mask(b, h.mask, 0)
		}
		closed = h.op == opClose
		see(h.op, string(b))
	}
}

// FuzzHandshake: what goes upstream and back is what the package can read itself.
func FuzzHandshake(f *testing.F) {
	f.Add("permessage-deflate; client_max_window_bits", "chat, superchat", "permessage-deflate; server_no_context_takeover", "chat")
	f.Add("mux, permessage-deflate; server_max_window_bits=\"10\"", "", "permessage-deflate", "")
	f.Add("permessage-deflate;;=", "a\r\nb", "x;", ",")
	f.Fuzz(func(t *testing.T, ext, protocol, answerExt, answerProtocol string) {
		h := asked()
		set := func(h http.Header, name, v string) {
			if v != "" {
				h.Set(name, v)
			}
		}
		set(h, "Sec-WebSocket-Extensions", ext)
		set(h, "Sec-WebSocket-Protocol", protocol)
		o, err := ReadOffer(h)
		if err != nil {
			return
		}
		again, err := ReadOffer(o.Header())
		if err != nil || again.Deflate != o.Deflate || strings.Join(again.Protocols, ",") != strings.Join(o.Protocols, ",") {
			t.Fatalf("ReadOffer(%v) = %+v, %v, from %+v", o.Header(), again, err, o)
		}
		answer := headers("Sec-WebSocket-Accept", rfcAccept)
		set(answer, "Sec-WebSocket-Extensions", answerExt)
		set(answer, "Sec-WebSocket-Protocol", answerProtocol)
		a, err := o.Accept(answer)
		if err != nil {
			return
		}
		if b, err := o.Accept(a.Header()); err != nil || b.Deflate != a.Deflate || b.Protocol != a.Protocol {
			t.Fatalf("Accept(%v) = %+v, %v, from %+v", a.Header(), b, err, a)
		}
	})
}
