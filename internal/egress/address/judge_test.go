package address

import (
	"errors"
	"flag"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Properties are tried with the same inputs in every run; -rapid.seed=0 explores.
var _ = flag.Set("rapid.seed", "1")

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

var everything = prefixes("0.0.0.0/0", "::/0")

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		why, addr, code string // code "" passes
		class           Class
		via             string
	}{
		{"a public IPv4", "8.8.8.8", "", 0, ""},
		{"a public IPv6", "2606:4700:4700::1111", "", 0, ""},
		{"next to 0/8", "1.0.0.0", "", 0, ""},
		{"next to 127/8 below", "126.255.255.255", "", 0, ""},
		{"next to 127/8 above", "128.0.0.0", "", 0, ""},
		{"below multicast", "223.255.255.255", "", 0, ""},
		{"beside 172.16/12", "172.32.0.1", "", 0, ""},
		{"beside 100.64/10", "100.128.0.1", "", 0, ""},
		{"beside 198.18/15", "198.20.0.1", "", 0, ""},

		{"loopback", "127.0.0.1", "loopback", Always, ""},
		{"all of 127/8", "127.255.255.254", "loopback", Always, ""},
		{"0.0.0.0 is this host to connect()", "0.0.0.0", "unspecified", Always, ""},
		{"rest of 0/8", "0.1.2.3", "this_network", Always, ""},
		{"metadata by name", "169.254.169.254", "metadata", Always, ""},
		{"container credentials", "169.254.170.2", "metadata", Always, ""},
		{"metadata inside shared space", "100.100.100.200", "metadata", Always, ""},
		{"metadata on a public address", "168.63.129.16", "metadata", Always, ""},
		{"metadata inside 192.0.0/24", "192.0.0.192", "metadata", Always, ""},
		{"link-local", "169.254.1.1", "link_local", Always, ""},
		{"multicast", "224.0.0.251", "multicast", Always, ""},
		{"end of multicast", "239.255.255.255", "multicast", Always, ""},
		{"240/4", "240.0.0.1", "reserved", Always, ""},
		{"broadcast", "255.255.255.255", "broadcast", Always, ""},

		{"RFC 1918 10/8", "10.4.0.7", "private", Internal, ""},
		{"RFC 1918 172.16/12", "172.31.255.255", "private", Internal, ""},
		{"RFC 1918 192.168/16", "192.168.1.1", "private", Internal, ""},
		{"shared space", "100.64.0.1", "shared", Internal, ""},
		{"protocol assignments", "192.0.0.8", "protocol", Internal, ""},
		{"test net 1", "192.0.2.1", "documentation", Internal, ""},
		{"test net 2", "198.51.100.1", "documentation", Internal, ""},
		{"test net 3", "203.0.113.1", "documentation", Internal, ""},
		{"benchmarking, and our synthetic addresses", "198.19.0.1", "benchmarking", Internal, ""},
		{"6to4 relay", "192.88.99.1", "relay", Internal, ""},

		{"IPv6 loopback", "::1", "loopback", Always, ""},
		{"IPv6 unspecified", "::", "unspecified", Always, ""},
		{"IPv6 link-local", "fe80::1", "link_local", Always, ""},
		{"end of IPv6 link-local", "febf::1", "link_local", Always, ""},
		{"with a zone", "fe80::1%eth0", "zone", Always, ""},
		{"a public address with a zone", "2606:4700::1%lo", "zone", Always, ""},
		{"IPv6 multicast", "ff02::1", "multicast", Always, ""},
		{"IPv6 metadata by name", "fd00:ec2::254", "metadata", Always, ""},
		{"IPv6 metadata of another cloud", "fd20:ce::254", "metadata", Always, ""},
		{"unique local", "fd00::1", "private", Internal, ""},
		{"unique local fc00", "fc00::1", "private", Internal, ""},
		{"site-local", "fec0::1", "private", Internal, ""},
		{"documentation", "2001:db8::1", "documentation", Internal, ""},
		{"new documentation", "3fff::1", "documentation", Internal, ""},
		{"discard-only", "100::1", "reserved", Internal, ""},
		{"segment routing", "5f00::1", "reserved", Internal, ""},
		{"unassigned", "4000::1", "reserved", Internal, ""},

		{"mapped public", "::ffff:8.8.8.8", "", 0, ""},
		{"mapped loopback", "::ffff:127.0.0.1", "loopback", Always, "v4-mapped IPv6"},
		{"mapped metadata", "::ffff:169.254.169.254", "metadata", Always, "v4-mapped IPv6"},
		{"mapped unspecified", "::ffff:0.0.0.0", "unspecified", Always, "v4-mapped IPv6"},
		{"mapped private", "::ffff:10.0.0.1", "private", Internal, "v4-mapped IPv6"},
		{"compatible loopback", "::127.0.0.1", "loopback", Always, "v4-compatible IPv6"},
		{"compatible this network", "::2", "this_network", Always, "v4-compatible IPv6"},
		{"compatible public is not routed", "::8.8.8.8", "reserved", Internal, ""},
		{"translated metadata", "::ffff:0:169.254.169.254", "metadata", Always, "v4-translated IPv6"},
		{"NAT64 to the Internet", "64:ff9b::8.8.8.8", "", 0, ""},
		{"NAT64 loopback", "64:ff9b::127.0.0.1", "loopback", Always, "NAT64"},
		{"NAT64 metadata", "64:ff9b::169.254.169.254", "metadata", Always, "NAT64"},
		{"NAT64 private", "64:ff9b::10.0.0.1", "private", Internal, "NAT64"},
		{"local NAT64", "64:ff9b:1::8.8.8.8", "private", Internal, ""},
		{"local NAT64 metadata, 96 bits", "64:ff9b:1::169.254.169.254", "metadata", Always, "local NAT64"},
		{"local NAT64 metadata, 96 bits elsewhere", "64:ff9b:1:ab:cd:ef:a9fe:a9fe", "metadata", Always, "local NAT64"},
		{"local NAT64 metadata, 48 bits", "64:ff9b:1:a9fe:a9:fe00::", "metadata", Always, "local NAT64"},
		{"local NAT64 metadata, 56 bits", "64:ff9b:1:00a9:00fe:a9fe::", "metadata", Always, "local NAT64"},
		{"local NAT64 metadata, 64 bits", "64:ff9b:1:0:00a9:fea9:fe00:0", "metadata", Always, "local NAT64"},
		{"6to4 public", "2002:0808:0808::1", "", 0, ""},
		{"6to4 loopback", "2002:7f00:1::1", "loopback", Always, "6to4"},
		{"6to4 metadata", "2002:a9fe:a9fe::1", "metadata", Always, "6to4"},
		{"6to4 private", "2002:a00:1::1", "private", Internal, "6to4"},
		{"Teredo server loopback", "2001:0:7f00:1::f7f7:f7f7", "loopback", Always, "Teredo"},
		{"Teredo client metadata", "2001:0:808:808:0:0:5601:5601", "metadata", Always, "Teredo"},
		{"Teredo public", "2001:0:808:808:0:0:f7f7:f7f7", "", 0, ""},
		{"ISATAP loopback", "2606:4700::5efe:127.0.0.1", "loopback", Always, "ISATAP"},
		{"ISATAP universal bit", "2606:4700::200:5efe:169.254.169.254", "metadata", Always, "ISATAP"},
	} {
		t.Run(c.why, func(t *testing.T) {
			a := netip.MustParseAddr(c.addr)
			err := Judge(a, nil)
			if c.code == "" {
				if err != nil {
					t.Errorf("Judge(%s) = %v, want nil", a, err)
				}
				return
			}
			var r *Refusal
			if !errors.As(err, &r) || r.Code != c.code || r.Class != c.class || r.Via != c.via {
				t.Fatalf("Judge(%s) = %+v, want code %s, class %d, via %q", a, r, c.code, c.class, c.via)
			}
			opened := Judge(a, everything)
			if (opened == nil) != (c.class == Internal) {
				t.Errorf("Judge(%s, everything) = %v, class %d", a, opened, c.class)
			}
		})
	}
}

func TestJudgeInvalid(t *testing.T) {
	if err := Judge(netip.Addr{}, everything); err == nil {
		t.Error("Judge(no address) = nil")
	}
}

func TestJudgeAllowedIPs(t *testing.T) {
	for _, c := range []struct {
		why, addr string
		allowed   []netip.Prefix
		pass      bool
	}{
		{"covered", "10.4.0.7", prefixes("10.4.0.0/16"), true},
		{"not covered", "10.5.0.7", prefixes("10.4.0.0/16"), false},
		{"second prefix", "10.5.0.7", prefixes("10.4.0.0/16", "10.5.0.7/32"), true},
		{"mapped, covered as IPv4", "::ffff:10.4.0.7", prefixes("10.4.0.0/16"), true},
		{"IPv6 everything does not open IPv4", "10.4.0.7", prefixes("::/0"), false},
		{"NAT64, covered as IPv4", "64:ff9b::10.4.0.7", prefixes("10.4.0.0/16"), true},
		{"ISATAP opens the inner address only", "fd00::5efe:10.4.0.7", prefixes("10.4.0.0/16"), false},
		{"local NAT64", "64:ff9b:1::8.8.8.8", prefixes("64:ff9b:1::/48"), true},
		{"metadata stays shut inside a covered range", "fd00:ec2::254", prefixes("fd00::/8"), false},
		{"shared space but for its metadata", "100.100.100.200", prefixes("100.64.0.0/10"), false},
		{"loopback by name", "127.0.0.1", prefixes("127.0.0.1/32"), false},
	} {
		t.Run(c.why, func(t *testing.T) {
			if err := Judge(netip.MustParseAddr(c.addr), c.allowed); (err == nil) != c.pass {
				t.Errorf("Judge(%s, %v) = %v, want pass %v", c.addr, c.allowed, err, c.pass)
			}
		})
	}
}

// TestJudgeProperties: a list opens addresses and never closes one; a notation opens nothing.
func TestJudgeProperties(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes")
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			return netip.AddrFrom4([4]byte(b[:4]))
		case 1: // near a row of the tables
			p := v6[rapid.IntRange(0, len(v6)-1).Draw(t, "row")].Range
			a := p.Addr().As16()
			copy(b, a[:p.Bits()/8])
		}
		return netip.AddrFrom16([16]byte(b))
	})
	rapid.Check(t, func(t *rapid.T) {
		a := addr.Draw(t, "addr")
		allowed := []netip.Prefix{netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))}
		bare, listed, all := Judge(a, nil), Judge(a, allowed), Judge(a, everything)
		if bare == nil && listed != nil {
			t.Fatalf("%s passes without a list but not with %v: %v", a, allowed, listed)
		}
		if (listed == nil) != (all == nil) {
			t.Fatalf("%s: a prefix that holds it gives %v, everything gives %v", a, listed, all)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		v := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
		plain, b := Judge(v, everything), v.As4()
		zero := b[0] == 0 // in local NAT64 these bytes are a hole of another layout
		for _, carrier := range [][16]byte{
			{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			{0: 0, 1: 0x64, 2: 0xff, 3: 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			{0: 0, 1: 0x64, 2: 0xff, 3: 0x9b, 5: 1, 12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			{0: 0x20, 1: 0x02, 2: b[0], 3: b[1], 4: b[2], 5: b[3], 15: 1},
			{0: 0x20, 1: 0x01, 4: 8, 5: 8, 6: 8, 7: 8, 12: ^b[0], 13: ^b[1], 14: ^b[2], 15: ^b[3]},
		} {
			a := netip.AddrFrom16(carrier)
			if plain != nil && !zero && Judge(a, everything) == nil {
				t.Fatalf("%s is refused, but not inside %s", v, a)
			}
		}
	})
}

func FuzzJudge(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1}, []byte{10, 0, 0, 0}, 8)
	f.Add(netip.MustParseAddr("64:ff9b:1::1").AsSlice(), []byte{0, 0, 0, 0}, 0)
	f.Fuzz(func(t *testing.T, addr, prefix []byte, bits int) {
		a, _ := netip.AddrFromSlice(addr)
		p, _ := netip.AddrFromSlice(prefix)
		err := Judge(a, []netip.Prefix{netip.PrefixFrom(p, bits)})
		if err == nil && (!a.IsValid() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast()) {
			t.Errorf("Judge(%s) = nil", a)
		}
		if err != nil && err.Error() == "" {
			t.Errorf("Judge(%s): empty reason", a)
		}
	})
}

func TestJudgeDoesNotAllocate(t *testing.T) {
	allowed := prefixes("10.4.0.0/16", "fd12::/16")
	for _, s := range []string{"8.8.8.8", "127.0.0.1", "10.4.0.7", "::ffff:10.0.0.1", "64:ff9b:1::7f00:1", "2606:4700::1"} {
		a := netip.MustParseAddr(s)
		if n := testing.AllocsPerRun(100, func() { _ = Judge(a, allowed) }); n != 0 {
			t.Errorf("Judge(%s): %v allocations, want 0", a, n)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	allowed := prefixes("10.4.0.0/16", "fd12::/16")
	for _, s := range []string{"8.8.8.8", "10.4.0.7", "2606:4700::1", "64:ff9b:1::808:808"} {
		a := netip.MustParseAddr(s)
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = Judge(a, allowed)
			}
		})
	}
}
