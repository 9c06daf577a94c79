package dns

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names is a policy: exact names, and suffixes with a leading dot.
type names []string

func (n names) Possible(host string) bool {
	for _, p := range n {
		if host == p || p[0] == '.' && strings.HasSuffix(host, p) {
			return true
		}
	}
	return false
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func server(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Policy == nil {
		o.Policy = names{"api.example.com", "db", ".wild.example", "model.local"}
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask packs a query. Changes see the message before it is packed.
func ask(t testing.TB, name string, typ dnsmessage.Type, changes ...func(*dnsmessage.Message)) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}
	for _, c := range changes {
		c(&m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func withEDNS(m *dnsmessage.Message) {
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(4096, 0, true); err != nil {
		panic(err)
	}
	m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: h, Body: &dnsmessage.OPTResource{
		Options: []dnsmessage.Option{{Code: 10, Data: []byte("cookiecookie")}},
	}})
}

func read(t testing.TB, b []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("answer %x: %v", b, err)
	}
	return m
}

// addr is the address of the only record of an answer, invalid if there is none.
func addr(t testing.TB, m dnsmessage.Message) netip.Addr {
	t.Helper()
	if len(m.Answers) == 0 {
		return netip.Addr{}
	}
	if len(m.Answers) > 1 || m.Answers[0].Header.TTL > 30 {
		t.Errorf("answers %v, want one with at most 30 s", m.Answers)
	}
	switch r := m.Answers[0].Body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(r.A)
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(r.AAAA)
	}
	t.Errorf("answer %v, want an address", m.Answers[0])
	return netip.Addr{}
}
