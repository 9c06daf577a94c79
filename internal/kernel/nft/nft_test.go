package nft

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sallyport/internal/testkit"
)

var update = flag.Bool("update", false, "write golden files")

var contract = Options{Proxy: netip.MustParseAddrPort("10.200.0.1:3128"), Device: "eth0"}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

func TestRulesText(t *testing.T) { golden(t, "testdata/rules.nft", Text(Rules(contract))) }

// The messages as the kernel gets them: one batch, from BATCH_BEGIN to BATCH_END.
func TestRulesMessages(t *testing.T) {
	var b strings.Builder
	c, err := nftables.New(nftables.WithTestDial(func(req []mdnetlink.Message) ([]mdnetlink.Message, error) {
		for _, m := range req {
			fmt.Fprintf(&b, "%#x %v\n%s", int(m.Header.Type), m.Header.Flags, hex.Dump(m.Data))
		}
		if len(req) == 0 {
			return nil, nil
		}
		var acks []mdnetlink.Message
		for _, m := range req {
			if m.Header.Flags&mdnetlink.Acknowledge != 0 {
				acks = append(acks, mdnetlink.Message{Header: mdnetlink.Header{Length: 4, Type: mdnetlink.Error, Sequence: m.Header.Sequence, PID: m.Header.PID}, Data: make([]byte, 4)})
			}
		}
		return acks, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := install(c, Rules(contract)); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/rules.messages", b.String())
}

// Every chain ends in a drop, and no rule but those to the proxy and on the
// loopback interface accepts.
func TestDefaultIsDrop(t *testing.T) {
	for _, r := range Rules(contract) {
		var words []string
		for _, m := range r.Match {
			words = append(words, m.Text)
		}
		says := strings.Join(words, " ")
		if r.Do.Text == Accept.Text && !strings.Contains(says, "10.200.0.1") && !strings.Contains(says, "ifname lo") {
			t.Errorf("%s: %q is accepted", r.Chain, says)
		}
		if r.Why == "" {
			t.Errorf("%s: %q has no reason", r.Chain, says)
		}
	}
}

// pair makes, in a network namespace of the test, another one with a veth pair
// by hand, and returns a func that runs on a thread in it. The near end is
// 10.200.0.1 and fd00::1.
func pair(t *testing.T) (inside func(func() error) error) {
	t.Helper()
	jobs, done := make(chan func() error), make(chan error)
	fds := make(chan int)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		fds <- fd
		for f := range jobs {
			done <- f()
		}
	}()
	inside = func(f func() error) error { jobs <- f; return <-done }
	fd := <-fds
	t.Cleanup(func() { close(jobs); unix.Close(fd) })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "near"
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = "eth0", netlink.NsFd(fd)
	must(t, netlink.LinkAdd(v))
	raise := func(name string, addresses ...string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	}
	must(t, raise("near", "10.200.0.1/24", "fd00::1/64"))
	must(t, inside(func() error {
		if err := raise("lo"); err != nil {
			return err
		}
		return raise("eth0", "10.200.0.2/24", "fd00::2/64")
	}))
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		a, _ := netlink.LinkByName("near")
		up := a != nil && a.Attrs().OperState == netlink.OperUp
		inside(func() error {
			b, _ := netlink.LinkByName("eth0")
			up = up && b != nil && b.Attrs().OperState == netlink.OperUp
			return nil
		})
		if up {
			return inside
		}
		if time.Now().After(end) {
			t.Fatal("the pair does not come up")
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ways are one try to get a packet out by each protocol. Each returns nil when
// the packet was sent and, where somebody answers, answered.
var ways = []struct {
	name string
	try  func() error
}{
	{"tcp to another port", func() error { return connect("tcp4", "10.200.0.1:80") }},
	{"tcp over IPv6", func() error { return connect("tcp6", "[fd00::1]:80") }},
	{"the proxy's port over IPv6", func() error { return connect("tcp6", "[fd00::1]:3128") }},
	{"udp", func() error { return ask("udp4", "10.200.0.1:53") }},
	{"udp over IPv6", func() error { return ask("udp6", "[fd00::1]:53") }},
	{"udp to the proxy's port", func() error { return send(unix.SOCK_DGRAM, unix.IPPROTO_UDP, 3128) }},
	{"udp-lite", func() error { return send(unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, 53) }},
	{"ping", func() error { return ping() }},
	{"raw sctp", func() error { return send(unix.SOCK_RAW, unix.IPPROTO_SCTP, 0) }},
	{"raw dccp", func() error { return send(unix.SOCK_RAW, unix.IPPROTO_DCCP, 0) }},
	{"raw gre", func() error { return send(unix.SOCK_RAW, unix.IPPROTO_GRE, 0) }},
	{"raw protocol 253", func() error { return send(unix.SOCK_RAW, 253, 0) }}, // RFC 3692: for experiments
}

// aWhile is how long a try waits for an answer.
const aWhile = 20 * time.Second

func connect(network, address string) error {
	c, err := net.DialTimeout(network, address, aWhile)
	if err == nil {
		c.Close()
	}
	return err
}

func ask(network, address string) error {
	c, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(aWhile))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// send sends eight bytes to the near end; what a rule drops is EPERM.
func send(kind, protocol, port int) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, make([]byte, 8), 0, &unix.SockaddrInet4{Port: port, Addr: [4]byte{10, 200, 0, 1}})
}

func ping() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, 0, &unix.SockaddrInet4{Addr: [4]byte{10, 200, 0, 1}})
}

// servers answer on the near end.
func servers(t *testing.T) {
	t.Helper()
	for _, a := range []string{"10.200.0.1:80", "10.200.0.1:3128", "[fd00::1]:80", "[fd00::1]:3128"} {
		l, err := net.Listen("tcp", a)
		must(t, err)
		t.Cleanup(func() { l.Close() })
	}
	for _, a := range []string{"10.200.0.1:53", "[fd00::1]:53"} {
		c, err := net.ListenPacket("udp", a)
		must(t, err)
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 16)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo(b[:n], from)
			}
		}()
	}
}

// Before the rules every way is open, which is the control; with them only the
// proxy is, and the sender is told.
func TestOnlyTheProxy(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		inside := pair(t)
		servers(t)
		for _, w := range ways {
			err := inside(w.try)
			// A neighbour of IPv6 takes a moment until it answers.
			for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); {
				err = inside(w.try)
			}
			if err != nil {
				t.Errorf("control: %s: %v", w.name, err)
			}
		}
		must(t, inside(func() error { return Install(Rules(contract)) }))
		if err := inside(func() error { return connect("tcp4", "10.200.0.1:3128") }); err != nil {
			t.Errorf("the proxy: %v", err)
		}
		if err := inside(loopbackTalk); err != nil {
			t.Errorf("a server on the loopback interface: %v", err)
		}
		for _, w := range ways {
			err := inside(w.try)
			if err == nil {
				t.Errorf("%s: went out", w.name)
			}
			if late, ok := err.(net.Error); ok && late.Timeout() {
				t.Errorf("%s: %v; want to be told", w.name, err)
			}
		}
		// From outside to the inside nothing is open either.
		if err := inside(func() error {
			l, err := net.Listen("tcp4", "10.200.0.2:8080")
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if c, err := net.DialTimeout("tcp4", "10.200.0.2:8080", time.Second); err == nil {
			c.Close()
			t.Error("a server inside was reached from outside")
		}
	})
}

func loopbackTalk() error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	return connect("tcp4", l.Addr().String())
}

// A second set, or a namespace that somebody has rules in, is refused.
func TestInstallTwice(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		runtime.LockOSThread()
		must(t, Install(Rules(contract)))
		if err := Install(Rules(contract)); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("a second Install = %v, want an error that is not ErrNone", err)
		}
	})
}

func TestInstallWithoutCapability(t *testing.T) {
	testkit.Nobody(t, func(t *testing.T) {
		if err := Install(Rules(contract)); !errors.Is(err, unix.EPERM) {
			t.Errorf("Install = %v, want EPERM", err)
		}
		if l, err := Listen(); err == nil {
			l.Close()
			t.Error("Listen without a capability succeeded")
		}
	})
}

func TestLog(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		inside := pair(t)
		servers(t)
		var l *Listener
		must(t, inside(func() (err error) {
			if err = Install(Rules(contract)); err == nil {
				l, err = Listen()
			}
			return err
		}))
		got := make(chan Packet, 4096) // more than come
		go func() {
			defer close(got)
			for {
				p, err := l.Next()
				if err != nil {
					return
				}
				for _, one := range p {
					if one.UID >= 0 { // the kernel itself speaks IPv6 when a link comes up
						got <- one
					}
				}
			}
		}()
		inside(func() error { return connect("tcp4", "10.200.0.1:80") })
		inside(func() error { return ask("udp6", "[fd00::1]:53") })
		inside(ping)
		for _, want := range []Packet{
			{Protocol: unix.IPPROTO_TCP, To: netip.MustParseAddrPort("10.200.0.1:80"), UID: os.Getuid()},
			{Protocol: unix.IPPROTO_UDP, To: netip.MustParseAddrPort("[fd00::1]:53"), UID: os.Getuid()},
			{Protocol: unix.IPPROTO_ICMP, To: netip.MustParseAddrPort("10.200.0.1:0"), UID: os.Getuid()},
		} {
			select {
			case p := <-got:
				if p.Protocol != want.Protocol || p.To != want.To || p.UID != want.UID || !p.From.IsValid() {
					t.Errorf("logged %+v, want %+v", p, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%+v was not logged", want)
			}
		}
		// A flood is bounded.
		const flood = 2000
		begun := time.Now()
		for range flood {
			inside(func() error { return send(unix.SOCK_DGRAM, unix.IPPROTO_UDP, 9) })
		}
		time.Sleep(50 * time.Millisecond) // let what was logged arrive
		seconds := int(time.Since(begun).Seconds())
		most := logBurst + (5+seconds)*logPerSecond
		n := len(got)
		l.Close()
		for range got {
		}
		switch {
		case n > most:
			t.Errorf("%d of %d packets were logged in %d s, want at most %d", n, flood, seconds, most)
		case most >= flood/2:
			t.Skipf("the flood took %d s, in which most of it may be logged", seconds)
		}
	})
}

// Finish ends Next behind what was logged before, and not a packet earlier.
func TestFinish(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		inside := pair(t)
		var l *Listener
		must(t, inside(func() (err error) {
			if err = Install(Rules(contract)); err == nil {
				l, err = Listen()
			}
			return err
		}))
		defer l.Close()
		const sent = 10
		for range sent {
			inside(func() error { return ask("udp4", "10.200.0.1:53") })
		}
		began := time.Now()
		must(t, l.Finish())
		time.Sleep(300 * time.Millisecond) // a reader that comes late, as on a machine that is overloaded
		got := 0
		for {
			packets, err := l.Next()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("ended by the clock, after %v", time.Since(began))
			}
			if err != nil {
				break
			}
			for _, p := range packets {
				if p.Protocol == unix.IPPROTO_UDP && p.UID == os.Getuid() {
					got++
				}
			}
		}
		if got != sent {
			t.Errorf("%d packets were told before the end, want %d", got, sent)
		}
	})
}

func TestParsePacket(t *testing.T) {
	v4 := func(protocol byte, options int, rest ...byte) []byte {
		b := make([]byte, 20+4*options)
		b[0], b[9] = 0x40|byte(5+options), protocol
		copy(b[12:], []byte{10, 200, 0, 2, 93, 184, 216, 34})
		return append(b, rest...)
	}
	v6 := append([]byte{0x60, 0, 0, 0, 0, 8, unix.IPPROTO_UDP, 64}, make([]byte, 40)...)
	v6[23], v6[39], v6[41], v6[43] = 2, 1, 7, 53
	for _, tt := range []struct {
		name     string
		in       []byte
		protocol int
		from, to string
	}{
		{"tcp", v4(6, 0, 0x12, 0x34, 0x01, 0xbb), 6, "10.200.0.2:4660", "93.184.216.34:443"},
		{"options", v4(17, 3, 0, 9, 0, 53), 17, "10.200.0.2:9", "93.184.216.34:53"},
		{"icmp has no ports", v4(1, 0, 8, 0, 1, 2), 1, "10.200.0.2:0", "93.184.216.34:0"},
		{"cut off", v4(6, 0, 1), 6, "10.200.0.2:0", "93.184.216.34:0"},
		{"IPv6", v6, 17, "[::2]:7", "[::1]:53"},
	} {
		p, ok := parsePacket(tt.in)
		if !ok || p.Protocol != tt.protocol || p.From.String() != tt.from || p.To.String() != tt.to {
			t.Errorf("%s: parsePacket = %+v, %v", tt.name, p, ok)
		}
	}
	for _, b := range [][]byte{nil, {0x45}, make([]byte, 19), append([]byte{0x50}, make([]byte, 39)...), append([]byte{0x60}, make([]byte, 38)...)} {
		if p, ok := parsePacket(b); ok {
			t.Errorf("parsePacket(%x) = %+v", b, p)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	attrs, _ := mdnetlink.MarshalAttributes([]mdnetlink.Attribute{
		{Type: attrUID, Data: []byte{0, 0, 0xff, 0xfe}}, {Type: attrPayload, Data: append([]byte{0x45}, make([]byte, 40)...)},
	})
	f.Add(append(make([]byte, headerLength), attrs...))
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseMessage(b)
		if ok && (!p.From.IsValid() || !p.To.IsValid() || p.Protocol < 0 || p.Protocol > 255 || p.UID < -1) {
			t.Errorf("parseMessage(%x) = %+v", b, p)
		}
	})
}
