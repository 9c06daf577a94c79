package netns

import (
	"net/netip"
)

// Range is the address range of one veth pair: the first two addresses of a
// prefix.
type Range struct {
	Slot   int          // number of the range, and of the host's interface
	Prefix netip.Prefix // masked
}

// Host is the supervisor's address.
func (r Range) Host() netip.Addr { return r.Prefix.Addr().Next() }

// Agent is the address inside.
func (r Range) Agent() netip.Addr { return r.Host().Next() }

// pools are the ranges to choose from, each cut into prefixes of so many bits.
// The first is the contract's, whole; the others are for the second sandbox of
// a host and for hosts that use the first for something else.
var pools = []struct {
	in   netip.Prefix
	bits int
}{
	{netip.MustParsePrefix("10.200.0.0/24"), 24},
	{netip.MustParsePrefix("10.200.128.0/17"), 30},
	{netip.MustParsePrefix("192.168.200.0/24"), 30},
	{netip.MustParsePrefix("172.30.200.0/24"), 30},
	{netip.MustParsePrefix("169.254.200.0/24"), 30}, // for a host whose VPN routes all of RFC 1918
}

// Slots is the number of ranges.
func Slots() int {
	n := 0
	for _, p := range pools {
		n += 1 << (p.bits - p.in.Bits())
	}
	return n
}

// RangeOf gives the range of a slot, which is in [0, Slots()).
func RangeOf(slot int) Range {
	i := slot
	for _, p := range pools {
		size := 1 << (p.bits - p.in.Bits())
		if i < size {
			return Range{slot, netip.PrefixFrom(nth(p.in.Addr(), i<<(32-p.bits)), p.bits)}
		}
		i -= size
	}
	panic("netns: no such slot")
}

// nth is the IPv4 address n after a.
func nth(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	for i := 3; i >= 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	return netip.AddrFrom4(b)
}

// wide is the longest prefix that is a default route in all but name, as VPNs
// make them of two halves, and no use of a range.
const wide = 7

// free lists the ranges in order that overlap nothing of used: addresses and
// routes of the host.
func free(used []netip.Prefix) func(yield func(Range) bool) {
	return func(yield func(Range) bool) {
		for slot := range Slots() {
			r := RangeOf(slot)
			if !overlapsAny(r.Prefix, used) && !yield(r) {
				return
			}
		}
	}
}

func overlapsAny(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if u.Bits() > wide && u.Overlaps(p) {
			return true
		}
	}
	return false
}
