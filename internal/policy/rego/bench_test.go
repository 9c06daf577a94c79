package rego

import (
	"fmt"
	"testing"

	"sallyport/internal/policy"
)

// shapes are policies of n endpoints that could make a decision depend on n.
var shapes = []struct {
	name string
	make func(n int) *policy.Policy
}{
	{"hosts", func(n int) *policy.Policy { // a policy for each host, all with the same binaries
		p := &policy.Policy{}
		for i := range n {
			p.Network = append(p.Network, policyOf(fmt.Sprintf("p%04d", i), fmt.Sprintf("h%d.example.com", i), "/usr/bin/curl", "/usr/lib/agent/**"))
		}
		return p
	}},
	{"wildcards", func(n int) *policy.Policy { // as many patterns for one name's parent
		p := &policy.Policy{}
		for i := range n {
			p.Network = append(p.Network, policyOf(fmt.Sprintf("p%04d", i), fmt.Sprintf("h%d*.example.com", i), "/usr/bin/curl"))
		}
		return p
	}},
	{"binaries", func(n int) *policy.Policy { // one host and port, a policy for each of n binaries
		p := &policy.Policy{}
		for i := range n {
			p.Network = append(p.Network, policyOf(fmt.Sprintf("p%04d", i), "h7.example.com", fmt.Sprintf("/usr/bin/tool%d", i)))
		}
		p.Network[n/2].Binaries[0].Path = "/usr/bin/curl"
		return p
	}},
	{"callers", func(n int) *policy.Policy { // the caller is on every one of n different lists
		p := &policy.Policy{}
		for i := range n {
			p.Network = append(p.Network, policyOf(fmt.Sprintf("p%04d", i), fmt.Sprintf("h%d.example.com", i), "/usr/bin/curl", fmt.Sprintf("/usr/bin/tool%d", i)))
		}
		return p
	}},
}

func policyOf(key, host string, binaries ...string) policy.NetworkPolicy {
	np := policy.NetworkPolicy{Key: key, Endpoints: []policy.Endpoint{{Host: host, Ports: []uint16{443}}}}
	for _, path := range binaries {
		np.Binaries = append(np.Binaries, policy.Binary{Path: path})
	}
	return np
}

func BenchmarkDecide(b *testing.B) {
	for _, shape := range shapes {
		for _, n := range []int{10, 100, 1000} {
			e, err := Compile(shape.make(n), 1)
			if err != nil {
				b.Fatal(err)
			}
			in := Input{Host: "h7.example.com", Port: 443, Exe: "/usr/bin/curl", Ancestors: []string{"/usr/bin/bash", "/usr/lib/agent/node"}}
			b.Run(fmt.Sprintf("%s/%d/again", shape.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if res, err := e.Decide(b.Context(), in); err != nil || !res.Allow {
						b.Fatal(res, err)
					}
				}
			})
			b.Run(fmt.Sprintf("%s/%d/first", shape.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					e.judgments.answers = nil
					if res, err := e.Decide(b.Context(), in); err != nil || !res.Allow {
						b.Fatal(res, err)
					}
				}
			})
		}
	}
}

func BenchmarkDeny(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		e, err := Compile(shapes[0].make(n), 1)
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range []struct {
			name string
			in   Input
		}{
			{"host", Input{Host: "evil.example", Port: 443, Exe: "/usr/bin/curl"}},
			{"port", Input{Host: "h7.example.com", Port: 80, Exe: "/usr/bin/curl"}},
			{"binary", Input{Host: "h7.example.com", Port: 443, Exe: "/usr/bin/wget"}},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					e.judgments.answers = nil
					if res, err := e.Decide(b.Context(), c.in); err != nil || res.Allow {
						b.Fatal(res, err)
					}
				}
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{0, 10, 100, 1000} {
		p := shapes[0].make(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compile(p, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHostPossible(b *testing.B) {
	for _, n := range []int{10, 1000} {
		e, err := Compile(shapes[1].make(n), 1)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !e.HostPossible("h7.example.com") || e.HostPossible("a.b.c.evil.example") {
					b.Fatal("wrong")
				}
			}
		})
	}
}
