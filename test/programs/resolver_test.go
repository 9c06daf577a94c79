package programs

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

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
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.stream(c) })
		}
	})
	t.Cleanup(func() { p.Close(); l.Close(); wg.Wait() })
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
	defer c.Close()
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

// wire looks at every frame that reaches the neighbour.
type wire struct {
	mu    sync.Mutex
	found map[string]int
}

// watchWire counts the frames to port 53 that hold one of the labels, as DNS
// writes it, in any case.
func watchWire(t *testing.T, n *testkit.Neighbour, labels ...string) *wire {
	w := &wire{found: map[string]int{}}
	var fd int
	var err error
	n.Do(func() {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		}
	})
	fatal(t, err)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if k, err := unix.Read(fd, b); err == nil {
				w.look(b[:k], labels)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *wire) look(frame []byte, labels []string) {
	lower := strings.ToLower(string(frame))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range labels {
		if toNameServer(frame) && strings.Contains(lower, string(rune(len(l)))+l) {
			w.found[l]++
		}
	}
}

// toNameServer recognises an IPv4 frame of UDP or TCP to port 53.
func toNameServer(f []byte) bool {
	const eth = 14
	if len(f) < eth+20 || f[eth]>>4 != 4 || !slices.Contains([]byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP}, f[eth+9]) {
		return false
	}
	at := eth + int(f[eth]&0xf)*4
	return len(f) >= at+4 && binary.BigEndian.Uint16(f[at+2:]) == 53
}

func (w *wire) frames(label string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.found[label]
}
