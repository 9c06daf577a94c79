package dns

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// reverse gives the name of an address that a program asks for by its reverse
// name: a synthetic address, or loopback, which servers ask for when they start.
func (s *Server) reverse(name string) (target string, known bool) {
	a, ok := reversed(name)
	switch {
	case !ok:
		return "", false
	case a.IsLoopback():
		return "localhost", true
	}
	return s.Lookup(a)
}

// reversed reads a name below in-addr.arpa (RFC 1035, section 3.5) or ip6.arpa
// (RFC 3596, section 2.5).
func reversed(name string) (a netip.Addr, ok bool) {
	if v4, is := strings.CutSuffix(name, ".in-addr.arpa"); is {
		labels := strings.Split(v4, ".")
		if len(labels) != 4 {
			return a, false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a, err == nil
	}
	v6, is := strings.CutSuffix(name, ".ip6.arpa")
	if !is || len(v6) != 63 {
		return a, false
	}
	var b [16]byte
	for i := range 32 {
		digit, err := strconv.ParseUint(v6[2*i:2*i+1], 16, 4)
		if err != nil || i < 31 && v6[2*i+1] != '.' {
			return a, false
		}
		b[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

// pointer is the record of a reverse name, or nil for any other type than PTR.
func pointer(t dnsmessage.Type, target string) dnsmessage.ResourceBody {
	n, err := dnsmessage.NewName(target + ".")
	if t != dnsmessage.TypePTR || err != nil {
		return nil
	}
	return &dnsmessage.PTRResource{PTR: n}
}
