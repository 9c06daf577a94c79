package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// clientHello records what crypto/tls sends first.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); tls.Client(a, cfg).Handshake() }()
	buf := make([]byte, maxHello)
	n, err := io.ReadAtLeast(b, buf, 5)
	if err != nil {
		t.Fatal(err)
	}
	want := 5 + int(buf[3])<<8 + int(buf[4])
	if n < want {
		if _, err := io.ReadFull(b, buf[n:want]); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
	<-done
	return buf[:want]
}

func namedHello(t testing.TB, name string) []byte {
	return clientHello(t, &tls.Config{ServerName: name, InsecureSkipVerify: true})
}

// fragment splits the message of one record into records of n bytes.
func fragment(hello []byte, n int) []byte {
	var out []byte
	for msg := hello[5:]; len(msg) > 0; {
		m := min(n, len(msg))
		out = append(out, 22, 3, 1, byte(m>>8), byte(m))
		out = append(out, msg[:m]...)
		msg = msg[m:]
	}
	return out
}

func TestReadHello(t *testing.T) {
	good := namedHello(t, "api.example.com")
	without := clientHello(t, &tls.Config{InsecureSkipVerify: true})
	for _, c := range []struct {
		why  string
		in   []byte
		name string
		err  error
	}{
		{"one record", good, "api.example.com", nil},
		{"without a name", without, "", nil},
		{"records of 100 bytes", fragment(good, 100), "api.example.com", nil},
		{"records of one byte", fragment(good, 1), "api.example.com", nil},
		{"bytes after it", append(bytes.Clone(good), "more"...), "api.example.com", nil},
		{"TLS 1.2", clientHello(t, &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}), "a.example", nil},
		{"nothing", nil, "", errHelloShort},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), "", errNotTLS},
		{"SSH", []byte("SSH-2.0-x\r\n"), "", errNotTLS},
		{"an alert", []byte{21, 3, 3, 0, 2, 2, 40}, "", errNotTLS},
		{"a ServerHello", append([]byte{22, 3, 3, 0, 4}, 2, 0, 0, 0), "", errNotTLS},
		{"record without bytes", []byte{22, 3, 1, 0, 0}, "", errNotTLS},
		{"record too long", []byte{22, 3, 1, 0x40, 1}, "", errNotTLS},
		{"message too long", []byte{22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}, "", errHello},
		{"empty message", []byte{22, 3, 1, 0, 4, 1, 0, 0, 0}, "", errHello},
	} {
		t.Run(c.why, func(t *testing.T) {
			name, err := readHello(c.in)
			if name != c.name || !errors.Is(err, c.err) {
				t.Errorf("readHello = %q, %v, want %q, %v", name, err, c.name, c.err)
			}
		})
	}
	for i := range good {
		if name, err := readHello(good[:i]); !errors.Is(err, errHelloShort) {
			t.Fatalf("readHello of the first %d bytes = %q, %v, want more asked for", i, name, err)
		}
	}
}

func TestReadHelloServerName(t *testing.T) {
	// The extension of a good hello, replaced by others of the same length.
	good := namedHello(t, "api.example.com")
	ext := append([]byte{0, 0, 0, 20, 0, 18, 0, 0, 15}, "api.example.com"...)
	if !bytes.Contains(good, ext) {
		t.Fatal("the hello has no server name where the test expects it")
	}
	for why, to := range map[string][]byte{
		"unknown kind of name":   append([]byte{0, 0, 0, 20, 0, 18, 1, 0, 15}, "api.example.com"...),
		"name too short":         append([]byte{0, 0, 0, 20, 0, 18, 0, 0, 14}, "api.example.com"...),
		"name too long":          append([]byte{0, 0, 0, 20, 0, 18, 0, 0, 16}, "api.example.com"...),
		"list too short":         append([]byte{0, 0, 0, 20, 0, 17, 0, 0, 15}, "api.example.com"...),
		"two names":              append([]byte{0, 0, 0, 20, 0, 18, 0, 0, 5}, "api.e\x00\x00\x07example"[:15]...),
		"empty name":             append([]byte{0, 0, 0, 20, 0, 3, 0, 0, 0}, "api.example.com"...),
		"twice in one hello":     append([]byte{0, 0, 0, 6, 0, 4, 0, 0, 1, 'a', 0, 0, 0, 6, 0, 4, 0, 0, 1, 'b'}, 0, 99, 0, 0),
		"longer than extensions": append([]byte{0, 0, 0xff, 0xff, 0, 18, 0, 0, 15}, "api.example.com"...),
	} {
		t.Run(why, func(t *testing.T) {
			name, err := readHello(bytes.Replace(good, ext, to, 1))
			if !errors.Is(err, errHello) {
				t.Errorf("readHello = %q, %v, want it to be unreadable", name, err)
			}
		})
	}
}

func FuzzReadHello(f *testing.F) {
	good := namedHello(f, "api.example.com")
	f.Add(good)
	f.Add(fragment(good, 50))
	f.Add([]byte{22, 3, 1, 0, 4, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		name, err := readHello(b)
		if err != nil {
			if name != "" {
				t.Fatalf("name %q with error %v", name, err)
			}
			return
		}
		// What crypto/tls reads too, it reads as the same name.
		if theirs, ok := theirName(b); ok && theirs != name {
			t.Fatalf("readHello = %q, crypto/tls reads %q", name, theirs)
		}
	})
}

// theirName is the server name as crypto/tls reads it.
func theirName(b []byte) (name string, ok bool) {
	c := tls.Server(recorded{bytes.NewReader(b)}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, ok = h.ServerName, true
		return nil, errNotTLS
	}})
	c.HandshakeContext(context.Background())
	return name, ok
}

// recorded is a connection that plays bytes and swallows what is written.
type recorded struct{ *bytes.Reader }

func (recorded) Write(b []byte) (int, error) { return len(b), nil }
func (recorded) Close() error                { return nil }

func (recorded) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (recorded) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (recorded) SetDeadline(time.Time) error      { return nil }
func (recorded) SetReadDeadline(time.Time) error  { return nil }
func (recorded) SetWriteDeadline(time.Time) error { return nil }
