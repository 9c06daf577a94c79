package dns

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	success  = dnsmessage.RCodeSuccess
	noName   = dnsmessage.RCodeNameError
	badForm  = dnsmessage.RCodeFormatError
	notImpl  = dnsmessage.RCodeNotImplemented
	refused  = dnsmessage.RCodeRefused
	typHTTPS = dnsmessage.Type(65)
	typSVCB  = dnsmessage.Type(64)
)

func TestServeMessage(t *testing.T) {
	for _, c := range []struct {
		why, name string
		typ       dnsmessage.Type
		code      dnsmessage.RCode
		answers   int
	}{
		{"allowed, IPv4", "api.example.com.", dnsmessage.TypeA, success, 1},
		{"allowed, IPv6", "api.example.com.", dnsmessage.TypeAAAA, success, 1},
		{"case is kept in the question and ignored in the name", "aPi.ExAmPlE.cOm.", dnsmessage.TypeA, success, 1},
		{"single label", "db.", dnsmessage.TypeA, success, 1},
		{"below a wildcard", "a.b.wild.example.", dnsmessage.TypeA, success, 1},
		{"service of the host", "model.local.", dnsmessage.TypeA, success, 1},
		{"localhost", "localhost.", dnsmessage.TypeA, success, 1},
		{"below localhost", "app.localhost.", dnsmessage.TypeAAAA, success, 1},
		{"HTTPS record", "api.example.com.", typHTTPS, success, 0},
		{"SVCB record", "api.example.com.", typSVCB, success, 0},
		{"MX record", "api.example.com.", dnsmessage.TypeMX, success, 0},
		{"TXT record", "api.example.com.", dnsmessage.TypeTXT, success, 0},
		{"any record", "api.example.com.", dnsmessage.TypeALL, success, 0},
		{"denied", "evil.example.", dnsmessage.TypeA, noName, 0},
		{"denied, TXT", "c2VjcmV0.evil.example.", dnsmessage.TypeTXT, noName, 0},
		{"allowed name as a prefix", "api.example.com.evil.example.", dnsmessage.TypeA, noName, 0},
		{"allowed name as a suffix", "xapi.example.com.", dnsmessage.TypeA, noName, 0},
		{"search list of a cluster", "api.example.com.default.svc.cluster.local.", dnsmessage.TypeA, noName, 0},
		{"reverse lookup", "1.0.19.198.in-addr.arpa.", dnsmessage.TypePTR, noName, 0},
		{"an address as a name", "127.0.0.1.", dnsmessage.TypeA, noName, 0},
		{"an address in hex as a name", "a.0x7f.", dnsmessage.TypeA, noName, 0},
		{"the root", ".", dnsmessage.TypeNS, noName, 0},
		{"bytes that no host has", "api\x00.example.com.", dnsmessage.TypeA, noName, 0},
		{"a space", "api .example.com.", dnsmessage.TypeA, noName, 0},
		{"UTF-8", "bücher.wild.example.", dnsmessage.TypeA, noName, 0},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := server(t, Options{})
			for _, edns := range []bool{false, true} {
				q := ask(t, c.name, c.typ)
				if edns {
					q = ask(t, c.name, c.typ, withEDNS)
				}
				m := read(t, s.ServeMessage(t.Context(), q))
				if m.RCode != c.code || len(m.Answers) != c.answers {
					t.Fatalf("%s: code %v with %d answers, want %v with %d", c.name, m.RCode, len(m.Answers), c.code, c.answers)
				}
				if m.ID != 0x1234 || !m.Response || !m.RecursionAvailable || !m.RecursionDesired || len(m.Authorities) != 0 {
					t.Errorf("header %+v", m.Header)
				}
				if len(m.Questions) != 1 || m.Questions[0].Name.String() != c.name || m.Questions[0].Type != c.typ {
					t.Errorf("question %v, want it as asked", m.Questions)
				}
				if got := len(m.Additionals); (got == 1) != edns || got > 1 {
					t.Errorf("%d additional records, EDNS %v", got, edns)
				}
				if edns && !m.Additionals[0].Header.DNSSECAllowed() {
					t.Error("DO bit was not copied")
				}
			}
		})
	}
}

func TestServeMessageMalformed(t *testing.T) {
	good := ask(t, "api.example.com.", dnsmessage.TypeA)
	with := func(at int, b ...byte) []byte {
		q := bytes.Clone(good)
		copy(q[at:], b)
		return q
	}
	resource := dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("a.example."), Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.AResource{},
	}
	for _, c := range []struct {
		why  string
		msg  []byte
		drop bool
		code dnsmessage.RCode
	}{
		{"empty", nil, true, 0},
		{"no whole header", good[:11], true, 0},
		{"a response", with(2, 0x81), true, 0},
		{"no question", ask(t, "a.", 1, func(m *dnsmessage.Message) { m.Questions = nil }), false, badForm},
		{"question announced only", good[:12], false, badForm},
		{"question cut short", good[:len(good)-1], false, badForm},
		{"two questions", ask(t, "db.", 1, func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }), false, badForm},
		{"65,535 questions announced", with(4, 0xff, 0xff), false, badForm},
		{"an answer in the query", ask(t, "db.", 1, func(m *dnsmessage.Message) { m.Answers = []dnsmessage.Resource{resource} }), false, badForm},
		{"an authority in the query", ask(t, "db.", 1, func(m *dnsmessage.Message) { m.Authorities = []dnsmessage.Resource{resource} }), false, badForm},
		{"additional announced only", with(10, 0, 1), false, badForm},
		{"two OPT records", ask(t, "db.", 1, withEDNS, withEDNS), false, badForm},
		{"many additionals", ask(t, "db.", 1, func(m *dnsmessage.Message) {
			for range maxAdditionals + 1 {
				m.Additionals = append(m.Additionals, resource)
			}
		}), false, badForm},
		{"OPT below another name", ask(t, "db.", 1, withEDNS, func(m *dnsmessage.Message) { m.Additionals[0].Header.Name = dnsmessage.MustNewName("a.") }), false, badForm},
		{"EDNS version 1", ask(t, "db.", 1, withEDNS, func(m *dnsmessage.Message) { m.Additionals[0].Header.TTL |= 1 << 16 }), false, badVersion & 0xf},
		{"status query", with(2, 0x10), false, notImpl},
		{"update", with(2, 0x28), false, notImpl},
		{"class CHAOS", ask(t, "version.bind.", dnsmessage.TypeTXT, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }), false, refused},
		{"class ANY", ask(t, "db.", 1, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassANY }), false, refused},
		{"name is a pointer to itself", append(bytes.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1), false, badForm},
		{"pointer beyond the message", append(bytes.Clone(good[:12]), 0xc0, 0xff, 0, 1, 0, 1), false, badForm},
		{"label longer than the message", append(bytes.Clone(good[:12]), 63, 'a', 0, 0, 1, 0, 1), false, badForm},
		{"reserved label type", append(bytes.Clone(good[:12]), 0x80, 0, 0, 1, 0, 1), false, badForm},
		{"a dot inside a label", append(bytes.Clone(good[:12]), 3, 'a', '.', 'b', 0, 0, 1, 0, 1), false, badForm},
		{"longer than any query", append(bytes.Clone(good), make([]byte, maxQuery+1-len(good))...), false, badForm},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := server(t, Options{})
			b := s.ServeMessage(t.Context(), c.msg)
			if c.drop {
				if b != nil {
					t.Errorf("answer %x, want none", b)
				}
				return
			}
			m := read(t, b)
			if m.RCode != c.code || len(m.Answers) != 0 {
				t.Errorf("code %v with %d answers, want %v without", m.RCode, len(m.Answers), c.code)
			}
			if len(s.table.names) != 0 {
				t.Errorf("table holds %d names", len(s.table.names))
			}
		})
	}
}

// TestLargestQueries: what is just below the bounds of a message is answered.
func TestLargestQueries(t *testing.T) {
	good := ask(t, "db.", dnsmessage.TypeA)
	for why, msg := range map[string][]byte{
		"as long as may be": append(bytes.Clone(good), make([]byte, maxQuery-len(good))...),
		"as many additionals": ask(t, "db.", 1, func(m *dnsmessage.Message) {
			for range maxAdditionals {
				m.Additionals = append(m.Additionals, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("a."), Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{},
				})
			}
		}),
	} {
		if m := read(t, server(t, Options{}).ServeMessage(t.Context(), msg)); m.RCode != success || len(m.Answers) != 1 {
			t.Errorf("%s: code %v with %d answers", why, m.RCode, len(m.Answers))
		}
	}
}

func TestBadVersionIsExtended(t *testing.T) {
	q := ask(t, "db.", 1, withEDNS, func(m *dnsmessage.Message) { m.Additionals[0].Header.TTL |= 1 << 16 })
	m := read(t, server(t, Options{}).ServeMessage(t.Context(), q))
	if got := m.Additionals[0].Header.ExtendedRCode(m.RCode); got != badVersion {
		t.Errorf("extended code %v, want BADVERS", got)
	}
}

func TestIPv4Only(t *testing.T) {
	s := server(t, Options{IPv4Only: true})
	m := read(t, s.ServeMessage(t.Context(), ask(t, "db.", dnsmessage.TypeAAAA)))
	if m.RCode != success || len(m.Answers) != 0 {
		t.Errorf("AAAA: %v with %d answers, want an existing name without", m.RCode, len(m.Answers))
	}
}

func FuzzServeMessage(f *testing.F) {
	f.Add(ask(f, "api.example.com.", dnsmessage.TypeA))
	f.Add(ask(f, "api.example.com.", dnsmessage.TypeAAAA, withEDNS))
	f.Add(ask(f, "x.wild.example.", typHTTPS, withEDNS))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	s := server(f, Options{Names: 64})
	f.Fuzz(func(t *testing.T, msg []byte) {
		b := s.ServeMessage(t.Context(), msg)
		if b == nil {
			return
		}
		m := read(t, b)
		if len(b) > 512 || m.ID != binary.BigEndian.Uint16(msg) || !m.Response || len(m.Answers) > 1 {
			t.Fatalf("query %x: answer %x", msg, b)
		}
		if a := addr(t, m); a.IsValid() && !a.IsLoopback() {
			if name, ok := s.Lookup(a); !ok || !(*s.policy.Load()).Possible(name) {
				t.Fatalf("query %x: %s stands for %q", msg, a, name)
			}
		}
	})
}

func BenchmarkServeMessage(b *testing.B) {
	s := server(b, Options{})
	for name, q := range map[string][]byte{
		"allowed": ask(b, "api.example.com.", dnsmessage.TypeA, withEDNS),
		"denied":  ask(b, "evil.example.", dnsmessage.TypeA, withEDNS),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.ServeMessage(b.Context(), q)
			}
		})
	}
}
