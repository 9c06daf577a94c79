package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func resolve(t testing.TB, s *Server, name string, typ dnsmessage.Type) netip.Addr {
	t.Helper()
	return addr(t, read(t, s.ServeMessage(context.Background(), ask(t, name+".", typ))))
}

func TestLookup(t *testing.T) {
	s := server(t, Options{})
	v4 := resolve(t, s, "api.example.com", dnsmessage.TypeA)
	v6 := resolve(t, s, "API.example.com", dnsmessage.TypeAAAA)
	other := resolve(t, s, "db", dnsmessage.TypeA)
	if !v4Net.Contains(v4) || !v6Net.Contains(v6) || v4 == other {
		t.Fatalf("addresses %s %s and %s", v4, v6, other)
	}
	mapped := netip.AddrFrom16(v4.As16())
	for _, a := range []netip.Addr{v4, v6, mapped} {
		if name, ok := s.Lookup(a); !ok || name != "api.example.com" {
			t.Errorf("Lookup(%s) = %q, %v", a, name, ok)
		}
	}
	for _, a := range []string{"198.18.0.1", "198.20.0.1", "8.8.8.8", "127.0.0.1", "::1", "fd73:616c:6c79::1", "fd73:616c:6c79:1::c613:1", "198.19.0.0", "198.19.0.255"} {
		if name, ok := s.Lookup(netip.MustParseAddr(a)); ok {
			t.Errorf("Lookup(%s) = %q, want none", a, name)
		}
	}
	if _, ok := s.Lookup(netip.Addr{}); ok {
		t.Error("Lookup(no address) found a name")
	}
}

func TestAddressIsStable(t *testing.T) {
	a, b := server(t, Options{}), server(t, Options{})
	first := resolve(t, a, "api.example.com", dnsmessage.TypeA)
	for range 3 {
		if again := resolve(t, a, "api.example.com", dnsmessage.TypeA); again != first {
			t.Errorf("address %s, then %s", first, again)
		}
	}
	resolve(t, b, "db", dnsmessage.TypeA)
	if again := resolve(t, b, "api.example.com", dnsmessage.TypeA); again != first {
		t.Errorf("address %s, in another run %s", first, again)
	}
}

func TestSlots(t *testing.T) {
	for slot := range slots {
		v4, v6 := netip.AddrFrom4(v4Of(slot)), netip.AddrFrom16(v6Of(slot))
		for _, a := range []netip.Addr{v4, v6} {
			if got, ok := slotAt(a); !ok || got != slot {
				t.Fatalf("slotAt(%s) = %d, %v, want %d", a, got, ok, slot)
			}
		}
	}
}

func TestFullTable(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	var told []string
	s := server(t, Options{Names: 2, TTL: 10 * time.Second, Now: c.now, Refused: func(name, reason string, _ int) {
		told = append(told, name+" "+reason)
	}})
	one := resolve(t, s, "one.wild.example", dnsmessage.TypeA)
	c.add(time.Second)
	two := resolve(t, s, "two.wild.example", dnsmessage.TypeA)

	m := read(t, s.ServeMessage(t.Context(), ask(t, "three.wild.example.", dnsmessage.TypeA)))
	if m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("full table: code %v, want a server failure", m.RCode)
	}
	if want := []string{"three.wild.example " + ReasonFull}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}

	c.add(30 * time.Second)
	s.Lookup(one) // used: two is older now
	if !resolve(t, s, "three.wild.example", dnsmessage.TypeA).IsValid() {
		t.Error("no place for a new name after the old answers ran out")
	}
	if name, ok := s.Lookup(two); ok {
		t.Errorf("the name longest unused is still there: %q", name)
	}
	if name, _ := s.Lookup(one); name != "one.wild.example" {
		t.Errorf("a name in use is now %q", name)
	}
	c.add(time.Hour)
	for i := range 20 {
		resolve(t, s, fmt.Sprintf("n%d.wild.example", i), dnsmessage.TypeA)
		c.add(time.Hour)
	}
	if len(s.table.names) != 2 || len(s.table.places) != 2 {
		t.Errorf("table holds %d names at %d places, want 2", len(s.table.names), len(s.table.places))
	}
}

func TestSetPolicy(t *testing.T) {
	s := server(t, Options{})
	a := resolve(t, s, "db", dnsmessage.TypeA)
	s.SetPolicy(names{"other.example"})
	if got := resolve(t, s, "db", dnsmessage.TypeA); got.IsValid() {
		t.Errorf("a name that is no longer possible got %s", got)
	}
	if name, _ := s.Lookup(a); name != "db" {
		t.Errorf("an address in use now stands for %q", name)
	}
	if !resolve(t, s, "other.example", dnsmessage.TypeA).IsValid() {
		t.Error("a name of the new policy got no address")
	}
}

func TestRefusedIsBounded(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	told := map[string]int{}
	total := 0
	s := server(t, Options{Now: c.now, Refused: func(name, reason string, suppressed int) {
		if reason != ReasonNoRule {
			t.Errorf("reason %q", reason)
		}
		told[name]++
		total += 1 + suppressed
	}})
	for range 3 {
		resolve(t, s, "evil.example", dnsmessage.TypeA)
		resolve(t, s, "api.example.com.svc.cluster.local", dnsmessage.TypeA) // search list: no news
	}
	if len(told) != 1 || told["evil.example"] != 1 {
		t.Errorf("told %v, want evil.example once", told)
	}
	for i := range 1000 {
		resolve(t, s, fmt.Sprintf("x%d.evil.example", i), dnsmessage.TypeTXT)
	}
	if len(told) != refusalRate {
		t.Errorf("told %d names in one minute, want %d", len(told), refusalRate)
	}
	c.add(time.Minute)
	resolve(t, s, "later.example", dnsmessage.TypeA)
	if total != 1+1000+1 {
		t.Errorf("told and suppressed %d, want all 1002", total)
	}
	for i := range 2000 {
		c.add(time.Minute)
		resolve(t, s, fmt.Sprintf("y%d.evil.example", i), dnsmessage.TypeA)
	}
	if n := len(s.refusals.known); n > refusalNames {
		t.Errorf("%d refused names are remembered, want at most %d", n, refusalNames)
	}
}

func TestNewRefuses(t *testing.T) {
	for why, o := range map[string]Options{
		"no policy":     {},
		"long ttl":      {Policy: names{}, TTL: time.Minute},
		"short ttl":     {Policy: names{}, TTL: time.Millisecond},
		"large table":   {Policy: names{}, Names: maxNames + 1},
		"negative size": {Policy: names{}, Names: -1},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: New = nil error", why)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	s := server(t, Options{Names: 50, TTL: time.Second})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				name := fmt.Sprintf("n%d.wild.example", (g*7+i)%40)
				a := resolve(t, s, name, dnsmessage.TypeA)
				if got, ok := s.Lookup(a); !ok || got != name {
					t.Errorf("Lookup(%s) = %q, want %q", a, got, name)
				}
			}
		})
	}
	wg.Wait()
}

// pipe serves one end of a TCP connection and gives the other.
func pipe(t *testing.T, s *Server) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.ServeTCP(ctx, c) }()
	t.Cleanup(func() { client.Close(); cancel(); <-done })
	return client
}

func framed(msgs ...[]byte) []byte {
	var b []byte
	for _, m := range msgs {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

func TestServeTCP(t *testing.T) {
	c := pipe(t, server(t, Options{}))
	// Two in one segment, a third in pieces.
	third := framed(ask(t, "evil.example.", dnsmessage.TypeA))
	c.Write(append(framed(ask(t, "db.", dnsmessage.TypeA), ask(t, "api.example.com.", dnsmessage.TypeAAAA, withEDNS)), third[:5]...))
	for i, want := range []dnsmessage.RCode{success, success, noName} {
		if i == 2 {
			c.Write(third[5:])
		}
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		if m := read(t, b); m.RCode != want {
			t.Errorf("answer %d: code %v, want %v", i, m.RCode, want)
		}
	}
}

// TestServeTCPCloses: what is beyond a bound of a connection ends it without an answer, after what is just below
// has been answered.
func TestServeTCPCloses(t *testing.T) {
	question := ask(t, "db.", dnsmessage.TypeA)
	padded := func(n int) []byte { return framed(append(bytes.Clone(question), make([]byte, n-len(question))...)) }
	for why, c := range map[string]struct {
		say     []byte
		answers int
		after   time.Duration // of which it is closed
	}{
		"message too long":       {append(padded(maxQuery), padded(maxQuery+1)...), 1, 0},
		"message far too long":   {[]byte{0xff, 0xff}, 0, 0},
		"message without header": {framed([]byte("hello")), 0, 0},
		"empty message":          {[]byte{0, 0}, 0, 0},
		"something else":         {[]byte("GET / HTTP/1.1\r\n\r\n" + string(bytes.Repeat([]byte("x"), 20000))), 0, 0},
		"too many questions":     {bytes.Repeat(framed(question), maxQueries+1), maxQueries, 0},
		"silence":                {framed(question), 1, queryTimeout},
		"half a length":          {append(framed(question), 0), 1, queryTimeout},
		"half a message":         {append(framed(question), framed(question)[:9]...), 1, queryTimeout},
	} {
		t.Run(why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // whose clock does not wait
				s := server(t, Options{})
				client, c2 := net.Pipe()
				defer client.Close()
				go s.ServeTCP(t.Context(), c2)
				go client.Write(c.say)
				began := time.Now()
				b, err := io.ReadAll(client)
				if err != nil || time.Since(began) != c.after {
					t.Errorf("closed after %v, %v, want %v", time.Since(began), err, c.after)
				}
				n := 0
				for ; len(b) > 2; n++ {
					b = b[2+binary.BigEndian.Uint16(b):]
				}
				if n != c.answers || len(b) > 0 {
					t.Errorf("%d answers and %x, want %d", n, b, c.answers)
				}
				synctest.Wait()
				if open := s.conns.Load(); open != 0 {
					t.Errorf("%d connections are counted after the end", open)
				}
			})
		})
	}
}

// TestConnectionsAreBounded: each one too many is closed at once, and told of or counted; the others are answered, and
// when one of them has ended there is a place again.
func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		counted := 0
		c := &clock{t: time.Unix(1000, 0)}
		s := server(t, Options{Now: c.now, Refused: func(name, reason string, suppressed int) {
			told = append(told, name+" "+reason)
			counted += suppressed
		}})
		open := func() net.Conn {
			client, c := net.Pipe()
			go s.ServeTCP(t.Context(), c)
			synctest.Wait()
			return client
		}
		answered := func(c net.Conn) bool {
			go c.Write(framed(ask(t, "db.", dnsmessage.TypeA)))
			_, err := io.ReadFull(c, make([]byte, 2))
			return err == nil
		}
		var conns []net.Conn
		for range maxConns {
			conns = append(conns, open())
		}
		for range 3 {
			if answered(open()) {
				t.Error("one too many is answered")
			}
		}
		busy := ". " + ReasonBusy
		if want := []string{busy, busy, busy}; !slices.Equal(told, want) || s.conns.Load() != maxConns {
			t.Errorf("told %q, want %q; %d are counted", told, want, s.conns.Load())
		}
		for range refusalRate {
			open()
		}
		if len(told) != refusalRate {
			t.Errorf("told of %d connections in a minute, want %d", len(told), refusalRate)
		}
		c.add(time.Minute)
		open()
		if n := len(told) + counted; n != 3+refusalRate+1 {
			t.Errorf("%d connections are told of and %d counted, want %d together", len(told), counted, 3+refusalRate+1)
		}
		if !answered(conns[0]) || !answered(conns[maxConns-1]) {
			t.Error("one of the others is not answered")
		}
		conns[0].Close()
		synctest.Wait()
		conns[0] = open()
		if !answered(conns[0]) {
			t.Error("there is no place after one has ended")
		}
		for _, c := range conns {
			c.Close()
		}
	})
}

// TestGoResolver asks through a real stub resolver, over both transports.
func TestGoResolver(t *testing.T) {
	s := server(t, Options{})
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			udp.WriteToUDPAddrPort(s.ServeMessage(t.Context(), b[:n]), from)
		}
	}()
	defer func() { udp.Close(); <-done }()

	for name, dial := range map[string]func() (net.Conn, error){
		"udp": func() (net.Conn, error) { return net.Dial("udp4", udp.LocalAddr().String()) },
		"tcp": func() (net.Conn, error) { return pipe(t, s), nil },
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				asked.Add(1)
				return dial()
			}}
			got, err := r.LookupNetIP(t.Context(), "ip", "api.example.com.")
			if err != nil || len(got) != 2 {
				t.Fatalf("LookupNetIP = %v, %v, want both families", got, err)
			}
			asked.Store(0)
			_, err = r.LookupNetIP(t.Context(), "ip", "evil.example.")
			var dnsErr *net.DNSError
			if !errors.As(err, &dnsErr) || !dnsErr.IsNotFound || dnsErr.IsTemporary {
				t.Errorf("denied name: %v, want not found", err)
			}
			if n := asked.Load(); n != 2 {
				t.Errorf("a denied name was asked for %d times, want once for each family", n)
			}
		})
	}
}
