package programs

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/internal/testkit"
)

// nameServer is the test's own resolver: the only one that this host knows. It
// remembers every name that it was asked for.
type nameServer struct {
	names map[string]netip.Addr
	mu    sync.Mutex
	asked map[string]int
}

// serveNames answers on port 53 of the neighbour's address, by UDP and TCP.
func serveNames(t *testing.T, n *testkit.Neighbour, addr string, names map[string]netip.Addr) *nameServer {
	s := &nameServer{names: names, asked: map[string]int{}}
	var p net.PacketConn
	var err error
	n.Do(func() { p, err = net.ListenPacket("udp", net.JoinHostPort(addr, "53")) })
	fatal(t, err)
	l := n.Listen(t, net.JoinHostPort(addr, "53"))
	var wg sync.WaitGroup
	wg.Go(func() { s.packets(p) })
	testkit.Accept(t, l, s.stream)
	t.Cleanup(func() { p.Close(); wg.Wait() })
	return s
}

func (s *nameServer) packets(p net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		p.WriteTo(s.answer(b[:n]), from)
	}
}

func (s *nameServer) stream(c net.Conn) {
	for {
		var n [2]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(n[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		a := s.answer(b)
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
	}
}

func (s *nameServer) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")
	s.mu.Lock()
	s.asked[name]++
	a, known := s.names[name]
	s.mu.Unlock()
	out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	switch {
	case !known:
		out.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA && a.Is4():
		out.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: a.As4()},
		}}
	}
	b, err := out.Pack()
	if err != nil {
		return nil
	}
	return b
}

// times says how often a name, or any name below it, was asked for.
func (s *nameServer) times(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := 0
	for n, c := range s.asked {
		if n == name || strings.HasSuffix(n, "."+name) || strings.HasPrefix(n, name+".") {
			sum += c
		}
	}
	return sum
}
