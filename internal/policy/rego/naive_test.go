package rego

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sallyport/internal/policy"
	"sallyport/internal/policy/match"
)

// naive is what the engine must give, written as the sentence of the language: walk over everything, match
// everything, and take the allowing endpoint of the smallest key.
func naive(p *policy.Policy, in Input) (want wanted, possible bool) {
	want = wanted{Reason: ReasonHost, Missing: &RuleMissing{Host: in.Host, Port: in.Port, Binary: in.Exe}}
	if in.Exe == "" {
		want.Missing = nil
	}
	var first *policy.NetworkPolicy
	for i := range p.Network {
		np := &p.Network[i]
		for at, ep := range np.Endpoints {
			if !naiveHost(ep, in.Host) {
				continue
			}
			possible = possible || len(np.Binaries) > 0
			if !want.Allow && want.Reason == ReasonHost {
				want.Reason = ReasonPort
			}
			if !slices.Contains(ep.Ports, in.Port) {
				continue
			}
			if !want.Allow {
				want.Reason = ReasonBinary
			}
			if !naiveBinary(np, in) {
				continue
			}
			want.Allow, want.Reason, want.Missing = true, ReasonAllowed, nil
			if first == nil || np.Key < first.Key {
				first, want.Policy, want.Endpoint = np, np.Key, &at
			}
			want.AllowedIPs = append(want.AllowedIPs, ep.AllowedIPs...)
		}
	}
	return want, possible
}

func naiveHost(ep policy.Endpoint, host string) bool {
	if canonical, err := match.CanonicalHost(host); err != nil || canonical != host {
		return false
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case ep.Host == "":
		return err == nil && slices.ContainsFunc(ep.AllowedIPs, func(p netip.Prefix) bool { return p.Contains(addr) })
	case err == nil:
		return ep.Host == host
	}
	return match.Host(ep.Host, host)
}

func naiveBinary(np *policy.NetworkPolicy, in Input) bool {
	for _, path := range append([]string{in.Exe}, in.Ancestors...) {
		for _, b := range np.Binaries {
			if path != "" && match.Binary(b.Path, path) {
				return true
			}
		}
	}
	return false
}

var (
	someHosts = []string{
		"a.example", "b.example", "ab.example", "a.b.example", "b.a.example", "a.a.b.example", "x.ab.b.example",
		"example", "b", "10.4.0.1", "10.4.1.1", "10.5.0.1", "fd00::1", "fd00:1::1", "192.0.2.1",
	}
	somePatterns = append([]string{
		"*.example", "*.b.example", "**.example", "**.b.example", "**.a.b.example", "a*.example", "*b.example",
		"a*b.example", "*a*.example", "a*.b.example",
	}, someHosts...)
	somePrefixes = []string{"10.4.0.0/16", "10.4.0.0/24", "10.4.0.1/32", "0.0.0.0/0", "fd00::/8", "fd00:1::/32", "::/0"}
	somePaths    = []string{"", "/usr/bin/curl", "/usr/bin/git", "/usr/lib/agent/bin/node", "/usr/lib/agent", "/opt/x"}
	someBinaries = append([]string{"/usr/bin/*", "/usr/**", "/usr/lib/agent/**", "/**", "/usr/bin/c*l", "/usr/lib/*/bin/node"}, somePaths[1:]...)
	somePorts    = []uint16{1, 80, 443, 8443, 65535}
)

func genEndpoint(t *rapid.T) policy.Endpoint {
	ep := policy.Endpoint{Ports: rapid.SliceOfNDistinct(rapid.SampledFrom(somePorts), 1, 3, rapid.ID).Draw(t, "ports")}
	hostless := rapid.IntRange(0, 4).Draw(t, "hostless") == 0
	if !hostless {
		ep.Host = rapid.SampledFrom(somePatterns).Draw(t, "pattern")
	}
	if hostless || rapid.Bool().Draw(t, "ips") {
		for _, s := range rapid.SliceOfNDistinct(rapid.SampledFrom(somePrefixes), 1, 3, rapid.ID).Draw(t, "prefixes") {
			ep.AllowedIPs = append(ep.AllowedIPs, netip.MustParsePrefix(s))
		}
	}
	return ep
}

func genPolicy(t *rapid.T) *policy.Policy {
	p := &policy.Policy{}
	for _, key := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]{1,2}[0-9]?`), 0, 6, rapid.ID).Draw(t, "keys") {
		np := policy.NetworkPolicy{Key: key}
		for range rapid.IntRange(0, 4).Draw(t, "endpoints") {
			np.Endpoints = append(np.Endpoints, genEndpoint(t))
		}
		for _, path := range rapid.SliceOfN(rapid.SampledFrom(someBinaries), 0, 3).Draw(t, "binaries") {
			np.Binaries = append(np.Binaries, policy.Binary{Path: path})
		}
		p.Network = append(p.Network, np)
	}
	return p
}

func genInput(t *rapid.T) Input {
	return Input{
		Host:      rapid.SampledFrom(someHosts).Draw(t, "host"),
		Port:      rapid.SampledFrom(somePorts).Draw(t, "port"),
		Exe:       rapid.SampledFrom(somePaths).Draw(t, "exe"),
		Ancestors: rapid.SliceOfN(rapid.SampledFrom(somePaths), 0, 3).Draw(t, "ancestors"),
	}
}

// TestDecide_likeNaive: the indexed engine and the walk give the same for every policy and request.
func TestDecide_likeNaive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := genPolicy(rt)
		e := compile(t, p)
		for range 20 {
			in := genInput(rt)
			want, possible := naive(p, in)
			if diff := diffNaive(want, decide(t, e, in)); diff != "" {
				rt.Fatalf("Decide(%+v) differs (-want +got):\n%s", in, diff)
			}
			if got := e.HostPossible(in.Host); got != possible {
				rt.Fatalf("HostPossible(%q) = %v, want %v", in.Host, got, possible)
			}
		}
	})
}

func diffNaive(want wanted, res Result) string {
	got := wantedOf(res)
	got.Detail = ""
	for _, w := range []*wanted{&want, &got} {
		w.AllowedIPs = slices.Clone(w.AllowedIPs)
		slices.SortFunc(w.AllowedIPs, netip.Prefix.Compare)
		w.AllowedIPs = slices.Compact(w.AllowedIPs)
		if len(w.AllowedIPs) == 0 {
			w.AllowedIPs = nil
		}
	}
	return cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
}

// FuzzDecide gives the engine hosts and paths that no kernel and no parser would: it answers like the walk.
func FuzzDecide(f *testing.F) {
	p := &policy.Policy{Network: []policy.NetworkPolicy{
		policyOf("exact", "api.forge.example", "/usr/bin/curl"),
		policyOf("label", "*.cdn.example", "/usr/bin/*"),
		policyOf("deep", "**.deep.example", "/usr/lib/agent/**"),
		policyOf("inner", "node-*.eu.example", "/usr/bin/curl"),
		policyOf("ips", "", "/**"),
	}}
	p.Network[4].Endpoints[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.4.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	e := compile(f, p)
	for _, host := range []string{
		"api.forge.example", "a.cdn.example", "a.b.deep.example", "node-1.eu.example", "10.4.1.1", "fd00::1", "",
		".", "..", "*.cdn.example", ".cdn.example", "a..deep.example", "fd00::1%eth0", "::ffff:10.4.1.1", "010.4.1.1",
		"a\x00.cdn.example", "api.forge.example.", "API.forge.example", "xn--.cdn.example", "\xff.cdn.example",
	} {
		f.Add(host, uint16(443), "/usr/bin/curl", "/usr/lib/agent/node")
	}
	f.Add("a.cdn.example", uint16(0), "", "/usr/bin/../bin/curl")
	f.Fuzz(func(t *testing.T, host string, port uint16, exe, ancestors string) {
		in := Input{Host: host, Port: port, Exe: exe, Ancestors: strings.Split(ancestors, "\n")}
		want, _ := naive(p, in)
		if diff := diffNaive(want, decide(t, e, in)); diff != "" {
			t.Fatalf("Decide(%#v) differs (-want +got):\n%s", in, diff)
		}
	})
}
