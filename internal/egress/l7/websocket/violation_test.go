package websocket

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// deflated is a message as RFC 7692 sends it.
func deflated(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, text)
	w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

type frame struct {
	first   byte
	payload string
}

const (
	fin  = 0x80
	rsv1 = 0x40
	cut  = 0xff // instead of the first byte: the payload is the beginning of a frame
)

// TestClientViolations: what a client may not send ends the connection with the code for it, reaches the server
// in no part, and the server is told, too.
func TestClientViolations(t *testing.T) {
	small := Options{Deflate: true, Judge: allow, MaxMessage: 100, MaxBinary: 100, MaxFragments: 3, Binary: true}
	half := "\xe2\x82"
	for _, c := range []struct {
		name   string
		o      Options
		frames []frame
		code   int // 0: what is just below a bound, and passes
	}{
		{"reserved bit 2", small, []frame{{fin | 0x20 | opText, "x"}}, ProtocolError},
		{"reserved bit 3", small, []frame{{fin | 0x10 | opText, "x"}}, ProtocolError},
		{"compressed without the extension", Options{Judge: allow}, []frame{{fin | rsv1 | opText, deflated(t, "x")}}, ProtocolError},
		{"compressed ping", small, []frame{{fin | rsv1 | opPing, "x"}}, ProtocolError},
		{"compressed second fragment", small, []frame{{opText, "x"}, {fin | rsv1 | opContinue, "y"}}, ProtocolError},
		{"unknown opcode", small, []frame{{fin | 0x3, "x"}}, ProtocolError},
		{"unknown control opcode", small, []frame{{fin | 0xb, "x"}}, ProtocolError},
		{"fragmented ping", small, []frame{{opPing, "x"}}, ProtocolError},
		{"long ping", small, []frame{{fin | opPing, strings.Repeat("x", 126)}}, ProtocolError},
		{"continuation of nothing", small, []frame{{fin | opContinue, "x"}}, ProtocolError},
		{"continuation after a whole message", small, []frame{{fin | opBinary, "x"}, {fin | opContinue, "x"}}, ProtocolError},
		{"message in a message", small, []frame{{opText, "x"}, {fin | opText, "y"}}, ProtocolError},
		{"text in a binary message", small, []frame{{opBinary, "x"}, {fin | opText, "y"}}, ProtocolError},
		{"half a code", small, []frame{{fin | opClose, "x"}}, ProtocolError},
		{"code 999", small, []frame{{fin | opClose, "\x03\xe7"}}, ProtocolError},
		{"code 1005", small, []frame{{fin | opClose, "\x03\xed"}}, ProtocolError},
		{"code 1006", small, []frame{{fin | opClose, "\x03\xee"}}, ProtocolError},
		{"code 1015", small, []frame{{fin | opClose, "\x03\xf7"}}, ProtocolError},
		{"code 5000", small, []frame{{fin | opClose, "\x13\x88"}}, ProtocolError},
		{"reason is not UTF-8", small, []frame{{fin | opClose, "\x03\xe8\xff"}}, BadText},
		{"text is not UTF-8", small, []frame{{fin | opText, "a\xff"}}, BadText},
		{"text ends within a character", small, []frame{{opText, half}, {fin | opContinue, ""}}, BadText},
		{"inflated text is not UTF-8", small, []frame{{fin | rsv1 | opText, deflated(t, "\xff")}}, BadText},
		{"rubbish instead of compression", small, []frame{{fin | rsv1 | opText, "\xff\xff\xff"}}, BadText},
		{"long text", small, []frame{{fin | opText, strings.Repeat("x", 101)}}, TooBig},
		{"long text in fragments", small, []frame{{opText, strings.Repeat("x", 60)}, {fin | opContinue, strings.Repeat("x", 41)}}, TooBig},
		{"long inflated text", small, []frame{{fin | rsv1 | opText, deflated(t, strings.Repeat("x", 101))}}, TooBig},
		{"long binary frame", small, []frame{{fin | opBinary, strings.Repeat("x", 101)}}, TooBig},
		{"many fragments", small, []frame{{opText, "a"}, {opContinue, "b"}, {opContinue, "c"}, {fin | opContinue, "d"}}, Policy},
		{"many empty fragments", small, []frame{{opText, ""}, {opContinue, ""}, {opContinue, ""}, {opContinue, ""}}, Policy},
		{"binary without leave", Options{Judge: allow}, []frame{{fin | opBinary, "x"}}, Policy},
		{"binary in fragments without leave", Options{Judge: allow}, []frame{{opBinary, "x"}}, Policy},
		{"no budget", Options{Judge: allow, Budget: NewBudget(3)}, []frame{{fin | opText, "long"}}, TryLater},
		{"judge that panics", Options{Judge: func([]byte) ([]byte, error) { panic("oops") }}, []frame{{fin | opText, "x"}}, Internal},
		{"message that takes long", Options{Judge: allow, MessageTime: time.Millisecond}, []frame{{opText, "x"}}, Policy},
		{"frame that takes long", Options{Judge: allow, MessageTime: time.Millisecond}, []frame{{cut, "\x81\x8a\x01\x02\x03\x04x"}}, Policy},

		{"ping just below", small, []frame{{fin | opPing, strings.Repeat("x", 125)}}, 0},
		{"text just below", small, []frame{{fin | opText, strings.Repeat("x", 100)}}, 0},
		{"text in fragments just below", small, []frame{{opText, strings.Repeat("x", 60)}, {opContinue, ""}, {fin | opContinue, strings.Repeat("x", 40)}}, 0},
		{"inflated text just below", small, []frame{{fin | rsv1 | opText, deflated(t, strings.Repeat("x", 100))}}, 0},
		{"binary frame just below", small, []frame{{fin | opBinary, strings.Repeat("x", 100)}}, 0},
		{"within the budget", Options{Judge: allow, Budget: NewBudget(4)}, []frame{{fin | opText, "long"}}, 0},
		{"message within the time", Options{Judge: allow, MessageTime: patience}, []frame{{opText, "x"}, {fin | opContinue, ""}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, server, done := pair(t, t.Context(), c.o)
			for _, f := range c.frames {
				if f.first == cut {
					io.WriteString(client, f.payload)
					continue
				}
				client.send(f.first, true, f.payload)
			}
			if c.code == 0 {
				for h, _ := server.receive(true, true); !h.fin; {
					h, _ = server.receive(true, true)
				}
				client.send(fin|opClose, true, "\x03\xe8")
				server.wantClose(true, normal)
				server.send(fin|opClose, false, "\x03\xe8")
				if err := wait(t, done).err; err != nil {
					t.Errorf("Relay = %v, want that it passes", err)
				}
				return
			}
			reason := client.wantClose(false, c.code)
			if reason == "" || len(reason) > 123 {
				t.Errorf("reason %q, want a sentence", reason)
			}
			server.wantClose(true, GoingAway)
			client.send(fin|opClose, true, "\x03\xe8")
			server.send(fin|opClose, false, "\x03\xe9")
			client.Close()
			if why, ok := errors.AsType[*CloseError](wait(t, done).err); !ok || why.Code != c.code {
				t.Errorf("Relay = %v, want %d", why, c.code)
			}
		})
	}
}

func TestUnmaskedClient(t *testing.T) {
	client, server, done := pair(t, t.Context(), Options{Judge: allow})
	client.send(fin|opText, false, "x")
	client.wantClose(false, ProtocolError)
	server.wantClose(true, GoingAway)
	client.Close()
	server.Close()
	wait(t, done)
}

// TestLengths: a length has one form (RFC 6455, section 5.2).
func TestLengths(t *testing.T) {
	for _, c := range []struct{ name, head string }{
		{"5 in 16 bits", "\x81\xfe\x00\x05"},
		{"125 in 16 bits", "\x81\xfe\x00\x7d"},
		{"5 in 64 bits", "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05"},
		{"65535 in 64 bits", "\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff"},
		{"negative", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, server, done := pair(t, t.Context(), Options{Judge: allow})
			io.WriteString(client, c.head)
			client.wantClose(false, ProtocolError)
			server.wantClose(true, GoingAway)
			client.Close()
			server.Close()
			wait(t, done)
		})
	}
	// A length that is right and absurd is refused before a byte of it is held.
	client, server, done := pair(t, t.Context(), Options{Judge: allow})
	io.WriteString(client, "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04")
	client.wantClose(false, TooBig)
	server.wantClose(true, GoingAway)
	client.Close()
	server.Close()
	wait(t, done)
}

// TestBomb: a message of a few kilobytes that inflates to a gigabyte costs no more than the limit.
func TestBomb(t *testing.T) {
	bomb := deflated(t, strings.Repeat("\x00", 64<<20))
	client, server, done := pair(t, t.Context(), Options{Deflate: true, Judge: allow})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	client.send(fin|rsv1|opText, true, bomb)
	client.wantClose(false, TooBig)
	runtime.ReadMemStats(&after)
	if grew := after.TotalAlloc - before.TotalAlloc; grew > 40<<20 {
		t.Errorf("a bomb of %d bytes made %d bytes of garbage, want less than 40 MiB", len(bomb), grew)
	}
	server.wantClose(true, GoingAway)
	client.Close()
	server.Close()
	wait(t, done)
}

// TestServerViolations: a server that breaks the protocol is told 1002, its client 1014.
func TestServerViolations(t *testing.T) {
	for _, c := range []struct {
		name   string
		masked bool
		first  byte
	}{{"masked", true, fin | opText}, {"reserved bit", false, fin | 0x20 | opText}, {"opcode", false, fin | 0x7}, {"compressed without the extension", false, fin | rsv1 | opText}} {
		t.Run(c.name, func(t *testing.T) {
			client, server, done := pair(t, t.Context(), Options{Judge: allow})
			server.send(c.first, c.masked, "x")
			client.wantClose(false, BadGateway)
			server.wantClose(true, ProtocolError)
			client.Close()
			server.Close()
			if wait(t, done).err == nil {
				t.Error("Relay = nil, want the violation")
			}
		})
	}
}

// TestFragments: what the server gets is one frame with another mask, and control frames pass ahead of it.
func TestFragments(t *testing.T) {
	var judged []string
	client, server, done := pair(t, t.Context(), Options{Deflate: true, Judge: func(text []byte) ([]byte, error) {
		judged = append(judged, string(text))
		return text, nil
	}})
	whole := deflated(t, "compressed €")
	client.send(opText, true, "a\xe2")
	client.send(fin|opPing, true, "p")
	client.send(opContinue, true, "\x82")
	client.send(fin|opContinue, true, "\xac")
	client.send(rsv1|opText, true, whole[:3])
	client.send(fin|opContinue, true, whole[3:])
	for _, want := range []frame{{fin | opPing, "p"}, {fin | opText, "a€"}, {fin | opText, "compressed €"}} {
		h, b := server.receive(true, true)
		if h.op != want.first&0xf || !h.fin || h.rsv1 || b != want.payload {
			t.Fatalf("the server got %+v %q, want %q", h, b, want.payload)
		}
		if h.mask == [4]byte{1, 2, 3, 4} {
			t.Error("the mask is the client's")
		}
	}
	server.send(opText, false, "from ")
	server.send(fin|opPong, false, "p")
	server.send(fin|opContinue, false, "server")
	for _, want := range []frame{{opText, "from "}, {fin | opPong, "p"}, {fin | opContinue, "server"}} {
		h, b := client.receive(false, true)
		if h.op != want.first&0xf || h.fin != (want.first&fin != 0) || b != want.payload {
			t.Fatalf("the client got %+v %q, want %q", h, b, want.payload)
		}
	}
	server.send(fin|opClose, false, "\x03\xe8bye")
	if reason := client.wantClose(false, normal); reason != "bye" {
		t.Errorf("reason %q, want bye", reason)
	}
	client.send(fin|opClose, true, "\x03\xe8bye")
	server.wantClose(true, normal)
	r := wait(t, done)
	if r.err != nil || len(judged) != 2 {
		t.Errorf("Relay = %v, judged %q, want two messages", r.err, judged)
	}
}

// TestBrokenOff: a side that ends without a Close ends the other one with the protocol's words.
func TestBrokenOff(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		client, server, done := pair(t, t.Context(), Options{Judge: allow})
		server.Close()
		client.wantClose(false, BadGateway)
		client.Close()
		if err := wait(t, done).err; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Relay = %v, want io.ErrUnexpectedEOF", err)
		}
	})
	t.Run("client", func(t *testing.T) {
		client, server, done := pair(t, t.Context(), Options{Judge: allow})
		client.send(opText, true, "half")
		client.Close()
		server.wantClose(true, GoingAway)
		server.Close()
		if err := wait(t, done).err; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Relay = %v, want io.ErrUnexpectedEOF", err)
		}
	})
	t.Run("client after the server's Close", func(t *testing.T) {
		client, server, done := pair(t, t.Context(), Options{Judge: allow})
		server.send(fin|opClose, false, "\x03\xe8")
		client.wantClose(false, normal)
		client.Close()
		server.wantClose(true, normal)
		if err := wait(t, done).err; err != nil {
			t.Errorf("Relay = %v, want a clean end", err)
		}
	})
}

// TestSilentPeers: nobody answers the Close, and the server does not even read. The relay ends all the same.
func TestSilentPeers(t *testing.T) {
	client, server, done := pair(t, t.Context(), Options{Judge: allow, CloseTime: time.Second, Binary: true, MaxBinary: 1 << 40})
	h := header{fin: true, op: opBinary, masked: true, length: 1 << 40}
	go func() {
		client.Write(h.append(nil))
		for {
			if _, err := client.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	server.send(fin|0x7, false, "x") // a violation while the client's frame is stuck
	client.wantClose(false, BadGateway)
	if wait(t, done).err == nil {
		t.Error("Relay = nil, want the violation")
	}
}

func TestBudgetIsGivenBack(t *testing.T) {
	budget := NewBudget(1000)
	client, server, done := pair(t, t.Context(), Options{Deflate: true, Judge: allow, Budget: budget})
	for range 50 {
		client.send(opText, true, strings.Repeat("x", 300))
		client.send(fin|opContinue, true, strings.Repeat("y", 300))
		client.send(fin|rsv1|opText, true, deflated(t, strings.Repeat("z", 500)))
		server.receive(true, false)
		server.receive(true, false)
	}
	client.send(opText, true, "unfinished")
	client.Close()
	server.wantClose(true, GoingAway)
	server.Close()
	wait(t, done)
	if left := budget.left.Load(); left != 1000 {
		t.Errorf("the budget has %d left, want 1000", left)
	}
}
