package address

import "net/netip"

// form is a way in which an IPv6 address carries an IPv4 address.
type form uint8

const (
	mapped     form = iota // ::ffff:a.b.c.d, RFC 4291: the kernel sends IPv4
	compatible             // ::a.b.c.d, RFC 4291
	translated             // ::ffff:0:a.b.c.d, RFC 2765
	nat64                  // 64:ff9b::a.b.c.d, RFC 6052
	nat64Local             // 64:ff9b:1::/48, RFC 8215: any layout of RFC 6052
	sixToFour              // 2002:aabb:ccdd::, RFC 3056
	teredo                 // 2001:0:server:…:client inverted, RFC 4380
	isatap                 // …:5efe:a.b.c.d as interface identifier, RFC 5214
	forms
)

var formNames = [forms]string{
	"v4-mapped IPv6", "v4-compatible IPv6", "v4-translated IPv6", "NAT64", "local NAT64", "6to4", "Teredo", "ISATAP",
}

// embedded[f][i] is v4[i] with form f in its words, made once so that Judge
// does not allocate.
var embedded = func() (t [forms][]Refusal) {
	for f := range forms {
		for _, r := range v4 {
			r.Via = formNames[f]
			t[f] = append(t[f], r)
		}
	}
	return t
}()

// maxReadings is the most IPv4 addresses that one IPv6 address can carry: four
// layouts of local NAT64, or two of Teredo, and one ISATAP identifier.
const maxReadings = 5

type reading struct {
	form  form
	inner netip.Addr
}

var (
	compatiblePrefix = netip.MustParsePrefix("::/96")
	translatedPrefix = netip.MustParsePrefix("::ffff:0:0:0/96")
	nat64LocalPrefix = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFourPrefix  = netip.MustParsePrefix("2002::/16")
	teredoPrefix     = netip.MustParsePrefix("2001::/32")
)

// readings gives every IPv4 address that a, an IPv6 address that is not
// v4-mapped, may lead to. An address that some translator on the way might read
// otherwise is judged in every reading.
func readings(a netip.Addr) (out [maxReadings]reading, n int) {
	b := a.As16()
	last := netip.AddrFrom4([4]byte(b[12:]))
	add := func(f form, v netip.Addr) { out[n] = reading{f, v}; n++ }
	switch {
	case compatiblePrefix.Contains(a):
		if last != netip.IPv4Unspecified() && a != netip.IPv6Loopback() {
			add(compatible, last)
		}
		return out, n
	case translatedPrefix.Contains(a):
		add(translated, last)
	case wellKnown64.Contains(a):
		add(nat64, last)
	case nat64LocalPrefix.Contains(a):
		for _, v := range layouts(b) {
			if !thisNetwork(v) {
				add(nat64Local, v)
			}
		}
	case sixToFourPrefix.Contains(a):
		add(sixToFour, netip.AddrFrom4([4]byte(b[2:6])))
	case teredoPrefix.Contains(a):
		add(teredo, netip.AddrFrom4([4]byte(b[4:8])))
		add(teredo, netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	if (b[8] == 0 || b[8] == 2) && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		add(isatap, last)
	}
	return out, n
}

// layouts reads b as an address of RFC 6052, section 2.2, with a prefix of 48,
// 56, 64 and 96 bits. Octet 8 is skipped in the first three.
func layouts(b [16]byte) [4]netip.Addr {
	return [4]netip.Addr{
		netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]}),
		netip.AddrFrom4([4]byte{b[7], b[9], b[10], b[11]}),
		netip.AddrFrom4([4]byte{b[9], b[10], b[11], b[12]}),
		netip.AddrFrom4([4]byte(b[12:])),
	}
}

// thisNetwork is true for 0.0.0.0/8: what the wrong layouts read from the zeros
// of an address, and what no translator forwards.
func thisNetwork(v netip.Addr) bool { return v.As4()[0] == 0 }
