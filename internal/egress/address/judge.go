package address

import "net/netip"

// Judge says whether addr may be dialled for an endpoint whose allowed_ips are
// allowed: nil, or a *Refusal. It does not allocate. To learn only what no
// policy can open, allow everything (0.0.0.0/0 and ::/0).
func Judge(addr netip.Addr, allowed []netip.Prefix) error {
	if r := judge(addr, allowed); r != nil {
		return r
	}
	return nil
}

func judge(a netip.Addr, allowed []netip.Prefix) *Refusal {
	switch {
	case !a.IsValid():
		return &invalid
	case a.Zone() != "":
		return &zoned
	case a.Is4():
		_, r := find(v4, a)
		return unless(r, covered(a, allowed))
	case a.Is4In6(): // to the kernel it is the IPv4 address
		return carried(reading{mapped, a.Unmap()}, covered(a, allowed), allowed)
	}
	open := covered(a, allowed)
	all, n := readings(a)
	for _, v := range all[:n] {
		if r := carried(v, open, allowed); r != nil {
			return r
		}
	}
	if _, r := find(v6, a); r != nil {
		return unless(r, open)
	}
	if !globalUnicast.Contains(a) && !wellKnown64.Contains(a) {
		return unless(&unassigned, open)
	}
	return nil
}

// carried judges an IPv4 address inside an IPv6 one. open says whether the
// outer address is allowed.
func carried(v reading, open bool, allowed []netip.Prefix) *Refusal {
	i, r := find(v4, v.inner)
	if unless(r, open || covered(v.inner, allowed)) == nil {
		return nil
	}
	return &embedded[v.form][i]
}

// unless is r, or nil if r can be opened and is.
func unless(r *Refusal, open bool) *Refusal {
	if r != nil && r.Class == Internal && open {
		return nil
	}
	return r
}

func find(table []Refusal, a netip.Addr) (int, *Refusal) {
	for i := range table {
		if table[i].Range.Contains(a) {
			return i, &table[i]
		}
	}
	return -1, nil
}

func covered(a netip.Addr, allowed []netip.Prefix) bool {
	for _, p := range allowed {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
