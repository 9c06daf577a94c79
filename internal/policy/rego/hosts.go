package rego

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/internal/policy/match"
)

// hostPattern is one distinct host pattern of a policy, or one prefix of an endpoint that names no host.
type hostPattern struct {
	text   string
	term   *ast.Term // text, as the key of the module's index
	grants bool      // an endpoint behind it belongs to a policy that names a binary
}

// hostIndex finds the patterns that match a host without walking over them. It proposes; match.Host decides.
// It is filled once and then only asked.
type hostIndex struct {
	exact map[string]*hostPattern
	// A first label with a star: by what is before the star and what is after the label. The lengths of the
	// texts before the star are kept for each rest, so that finding them is a lookup for each length.
	starred map[starKey][]*hostPattern
	lengths map[string][]int
	deep    map[string]*hostPattern // "**.rest", by rest
	// Prefixes of endpoints without a host, and the lengths that occur, for IPv4 and IPv6.
	prefixes map[netip.Prefix]*hostPattern
	bits     [2][]int

	hosts memory[[]*hostPattern] // what matches a host
}

type starKey struct{ before, rest string }

func newHostIndex() *hostIndex {
	return &hostIndex{
		exact:    map[string]*hostPattern{},
		starred:  map[starKey][]*hostPattern{},
		lengths:  map[string][]int{},
		deep:     map[string]*hostPattern{},
		prefixes: map[netip.Prefix]*hostPattern{},
	}
}

// add returns the pattern for a host as a policy writes it, and indexes it if it is new.
func (x *hostIndex) add(host string) (*hostPattern, error) {
	first, rest, _ := strings.Cut(host, ".")
	switch {
	case !strings.Contains(host, "*"):
		return once(x.exact, host, host), nil
	case rest == "" || strings.Contains(rest, "*") || strings.Contains(first, "**") && first != "**":
		return nil, fmt.Errorf("host %q: a wildcard is the first label or inside it, before a name", host)
	case first == "**":
		return once(x.deep, rest, host), nil
	}
	before, _, _ := strings.Cut(first, "*")
	key := starKey{before, rest}
	for _, p := range x.starred[key] {
		if p.text == host {
			return p, nil
		}
	}
	if !slices.Contains(x.lengths[rest], len(before)) {
		x.lengths[rest] = append(x.lengths[rest], len(before))
	}
	p := newHostPattern(host)
	x.starred[key] = append(x.starred[key], p)
	return p, nil
}

// addPrefix returns the pattern for a prefix of an endpoint without a host, and indexes it if it is new.
func (x *hostIndex) addPrefix(prefix netip.Prefix) (*hostPattern, error) {
	if !prefix.IsValid() {
		return nil, fmt.Errorf("allowed_ips: %v is not a prefix", prefix)
	}
	prefix = prefix.Masked()
	bits := &x.bits[family(prefix.Addr())]
	if !slices.Contains(*bits, prefix.Bits()) {
		*bits = append(*bits, prefix.Bits())
	}
	return once(x.prefixes, prefix, prefix.String()), nil
}

// match appends to found the patterns that match a canonical host: a name, or the text of an address. A host in
// any other form matches nothing.
func (x *hostIndex) match(found []*hostPattern, host string) []*hostPattern {
	var buf [256]byte
	all, _ := x.hosts.get(append(buf[:0], host...), func() ([]*hostPattern, error) { return x.find(nil, host), nil })
	return append(found, all...)
}

func (x *hostIndex) find(found []*hostPattern, host string) []*hostPattern {
	if canonical, err := match.CanonicalHost(host); err != nil || canonical != host {
		return found
	}
	if p, ok := x.exact[host]; ok {
		found = append(found, p)
	}
	if looksNumeric(host) {
		if addr, err := netip.ParseAddr(host); err == nil {
			return x.matchAddr(found, addr)
		}
	}
	return x.matchName(found, host)
}

func (x *hostIndex) matchAddr(found []*hostPattern, addr netip.Addr) []*hostPattern {
	if addr.Zone() != "" {
		return found // a prefix would match whatever the zone
	}
	for _, bits := range x.bits[family(addr)] {
		prefix, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		if p, ok := x.prefixes[prefix]; ok {
			found = append(found, p)
		}
	}
	return found
}

func (x *hostIndex) matchName(found []*hostPattern, host string) []*hostPattern {
	first, rest, ok := strings.Cut(host, ".")
	if !ok {
		return found
	}
	for _, n := range x.lengths[rest] {
		if n > len(first) {
			continue
		}
		for _, p := range x.starred[starKey{first[:n], rest}] {
			if match.Host(p.text, host) {
				found = append(found, p)
			}
		}
	}
	if len(x.deep) == 0 {
		return found
	}
	for ok {
		if p, hit := x.deep[rest]; hit && match.Host(p.text, host) {
			found = append(found, p)
		}
		_, rest, ok = strings.Cut(rest, ".")
	}
	return found
}

// looksNumeric tells names, the common case, from what may be the text of an address.
func looksNumeric(host string) bool {
	if host == "" {
		return false
	}
	last := host[len(host)-1]
	return '0' <= last && last <= '9' || strings.Contains(host, ":")
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

func newHostPattern(text string) *hostPattern {
	return &hostPattern{text: text, term: ast.StringTerm(text)}
}

// once returns the pattern under key, made of text when it is not there yet.
func once[K comparable](patterns map[K]*hostPattern, key K, text string) *hostPattern {
	p, ok := patterns[key]
	if !ok {
		p = newHostPattern(text)
		patterns[key] = p
	}
	return p
}
