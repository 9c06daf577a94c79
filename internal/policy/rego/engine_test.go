package rego

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/policy"
)

// curl is a request that policyOf("…", "a.example", "/usr/bin/curl") allows.
var curl = Input{Host: "a.example", Port: 443, Exe: "/usr/bin/curl"}

func onePolicy() *policy.Policy {
	return &policy.Policy{Network: []policy.NetworkPolicy{policyOf("p", "a.example", "/usr/bin/curl")}}
}

func TestCompile(t *testing.T) {
	endpoint := func(ep policy.Endpoint) *policy.Policy {
		return &policy.Policy{Network: []policy.NetworkPolicy{{Key: "forge", Endpoints: []policy.Endpoint{ep}}}}
	}
	for name, tc := range map[string]struct {
		policy *policy.Policy
		want   string
	}{
		"no_policy":       {nil, "no policy"},
		"bare_star":       {endpoint(policy.Endpoint{Host: "*"}), `policy "forge": endpoint 0: host "*"`},
		"bare_stars":      {endpoint(policy.Endpoint{Host: "**"}), `host "**"`},
		"inner_star":      {endpoint(policy.Endpoint{Host: "a.*.example"}), `host "a.*.example"`},
		"stars_in_label":  {endpoint(policy.Endpoint{Host: "a**.b.example"}), `host "a**.b.example"`},
		"neither":         {endpoint(policy.Endpoint{}), "neither a host nor allowed_ips"},
		"no_prefix":       {endpoint(policy.Endpoint{AllowedIPs: []netip.Prefix{{}}}), "not a prefix"},
		"empty":           {&policy.Policy{}, ""},
		"unmasked_prefix": {endpoint(policy.Endpoint{AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")}}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(tc.policy, 1)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("Compile = %v, want no error", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("Compile = %v, want %q", err, tc.want)
			}
		})
	}
}

// TestCompile_order: the engine reports by key whatever the order of the policies it is given.
func TestCompile_order(t *testing.T) {
	p := &policy.Policy{}
	for _, key := range []string{"b", "a10", "a9", "c"} {
		p.Network = append(p.Network, policyOf(key, "a.example", "/usr/bin/"+"curl"))
	}
	if got := decide(t, compile(t, p), curl).Policy; got != "a10" {
		t.Errorf("Decide: policy %q, want %q", got, "a10")
	}
}

// TestDecide_again: an answer that is remembered is the one that was given, whatever was done with it meanwhile, and
// only for the same program, host and port.
func TestDecide_again(t *testing.T) {
	p := &policy.Policy{Network: []policy.NetworkPolicy{policyOf("a", "a.example", "/usr/bin/curl"), policyOf("b", "a.example", "/usr/bin/curl")}}
	read := &p.Network[1].Endpoints[0]
	read.Protocol, read.Rules = policy.REST, []policy.Rule{{Allow: policy.Match{Method: "GET"}}}
	e := compile(t, p)
	in := curl
	in.Host, in.Port = "a.example", read.Ports[0]
	first := decide(t, e, in)
	if first.Endpoint != read {
		t.Fatalf("Decide = %+v, want the endpoint that is read", first)
	}
	if got := e.Keeps(t.Context(), e, in); got != Lives {
		t.Errorf("Keeps = %v, want %v", got, Lives)
	}
	if diff := cmp.Diff(first, decide(t, e, in)); diff != "" {
		t.Errorf("Decide, again (-first +again):\n%s", diff)
	}
	for name, change := range map[string]func(*Input){
		ReasonHost:   func(in *Input) { in.Host = "b.example" },
		ReasonPort:   func(in *Input) { in.Port++ },
		ReasonBinary: func(in *Input) { in.Exe, in.Ancestors = "/usr/bin/wget", nil },
	} {
		other := in
		change(&other)
		for range 2 {
			if got := decide(t, e, other); got.Allow || got.Reason != name {
				t.Errorf("Decide(%+v) = %+v, want the denial %s", other, got, name)
			}
		}
	}
}

// TestDecide_flat counts the steps that OPA takes: they must not depend on the size of the policy.
func TestDecide_flat(t *testing.T) {
	steps := func(p *policy.Policy, in Input) uint {
		e := compile(t, p)
		wait := &patience{ctx: t.Context(), until: time.Now().Add(time.Hour)}
		if _, _, err := e.judge(wait, in); err != nil {
			t.Fatal(err)
		}
		return wait.steps
	}
	for _, shape := range shapes {
		for _, in := range []Input{
			{Host: "h7.example.com", Port: 443, Exe: "/usr/bin/curl"},
			{Host: "h7.example.com", Port: 443, Exe: "/usr/bin/wget"},
			{Host: "h7.example.com", Port: 80, Exe: "/usr/bin/curl"},
			{Host: "evil.example", Port: 443, Exe: "/usr/bin/curl"},
		} {
			t.Run(fmt.Sprintf("%s/%s_%d_%s", shape.name, in.Host, in.Port, in.Exe[len("/usr/bin/"):]), func(t *testing.T) {
				few, many := steps(shape.make(10), in), steps(shape.make(1000), in)
				if few != many {
					t.Errorf("steps: %d with 10 endpoints, %d with 1000, want the same", few, many)
				}
			})
		}
	}
}

func TestDecide_failsClosed(t *testing.T) {
	const loop = `package sallyport.egress
xs := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
admitted contains 0 if { xs[_] != xs[_]; xs[_] != xs[_]; xs[_] != xs[_]; xs[_] = 99 }
`
	for name, tc := range map[string]struct {
		module string
		reason string
		want   error
	}{
		"endless":       {loop, ReasonTimeout, context.DeadlineExceeded},
		"not_a_set":     {"package sallyport.egress\nadmitted := true\n", ReasonUndefined, errUndefined},
		"undefined":     {"package sallyport.egress\nadmitted := 1 if input.nothing\n", ReasonUndefined, errUndefined},
		"no_reason":     {"package sallyport.egress\nadmitted := {x | x := input.nothing}\nreason := 1\n", ReasonUndefined, errUndefined},
		"unknown_id":    {"package sallyport.egress\nadmitted := {1}\n", ReasonUndefined, errUndefined},
		"negative_id":   {"package sallyport.egress\nadmitted := {-1}\n", ReasonUndefined, errUndefined},
		"id_of_string":  {"package sallyport.egress\nadmitted := {\"0\"}\n", ReasonUndefined, errUndefined},
		"broken_id":     {"package sallyport.egress\nadmitted := {0.5}\n", ReasonUndefined, errUndefined},
		"two_values":    {"package sallyport.egress\nadmitted := {0} if input.port\nadmitted := {1} if input.port\n", ReasonError, nil},
		"builtin_error": {"package sallyport.egress\nadmitted := input.port & input.port\n", ReasonError, nil},
		"panic":         {"package sallyport.egress\nadmitted := data.nowhere.at_all\n", ReasonError, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := compile(t, onePolicy())
			var err error
			if e.program, err = compileModules(map[string]string{"x.rego": tc.module}, builtins); err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if tc.want == context.DeadlineExceeded {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
			}
			res, err := e.Decide(ctx, curl)
			if res.Allow || res.Reason != tc.reason || res.Missing != nil || res.Detail == "" {
				t.Errorf("Decide = %+v, want a denial with %s and no rule", res, tc.reason)
			}
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("Decide = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestDecide_deadline(t *testing.T) {
	e, err := Compile(onePolicy(), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		res, err := e.Decide(ctx, curl)
		if res.Allow || res.Reason != ReasonTimeout || !errors.Is(err, context.Canceled) {
			t.Errorf("Decide = %+v, %v, want %s and context.Canceled", res, err, ReasonTimeout)
		}
	})
	t.Run("limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			wait := &patience{ctx: t.Context(), until: time.Now().Add(e.limit)}
			if wait.check(); wait.err != nil {
				t.Fatalf("at once: %v, want patience", wait.err)
			}
			time.Sleep(limit)
			for range 64 {
				wait.Cancelled()
			}
			if !wait.Cancelled() || !errors.Is(wait.err, context.DeadlineExceeded) {
				t.Errorf("after %v: %v, want context.DeadlineExceeded", limit, wait.err)
			}
		})
	})
}

func TestHostPossible(t *testing.T) {
	p := &policy.Policy{Network: []policy.NetworkPolicy{
		policyOf("a", "api.forge.example", "/usr/bin/curl"),
		policyOf("b", "*.cdn.example", "/usr/bin/curl"),
		policyOf("c", "**.deep.example", "/usr/bin/curl"),
		policyOf("d", "node-*.eu.example", "/usr/bin/curl"),
		policyOf("nobody", "nobody.example"),
		policyOf("e", "", "/usr/bin/curl"),
	}}
	p.Network[5].Endpoints[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.4.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	e := compile(t, p)
	for host, want := range map[string]bool{
		"api.forge.example": true, "forge.example": false, "x.api.forge.example": false, "API.forge.example": false,
		"api.forge.example.": false, "a.cdn.example": true, "a.b.cdn.example": false, "cdn.example": false,
		"a.b.deep.example": true, "node-1.eu.example": true, "node.eu.example": false, "node-1.us.example": false,
		"nobody.example": false, "10.4.1.2": true, "10.5.1.2": false, "fd00::1": true, "fe80::1": false, "": false,
		"a\x00.cdn.example": false, ".cdn.example": false, "a..deep.example": false, "*.cdn.example": false,
	} {
		if got := e.HostPossible(host); got != want {
			t.Errorf("HostPossible(%q) = %v, want %v", host, got, want)
		}
	}
}

// TestCallers_bounded: many programs neither grow the memory of the engine nor change its answers.
func TestCallers_bounded(t *testing.T) {
	e := compile(t, onePolicy())
	for i := range 3 * maxRemembered {
		in := curl
		in.Ancestors = []string{fmt.Sprintf("/bin/tool%d", i)}
		if !decide(t, e, in).Allow {
			t.Fatalf("Decide(%+v) denied, want allowed", in)
		}
		if n := len(e.callers.programs.answers); n > maxRemembered {
			t.Fatalf("%d programs are remembered, want at most %d", n, maxRemembered)
		}
	}
	n := len(e.callers.programs.answers)
	in := curl
	in.Ancestors = []string{"/" + strings.Repeat("x", maxKey)}
	if !decide(t, e, in).Allow || len(e.callers.programs.answers) != n {
		t.Errorf("an endless ancestor: %d programs remembered, want %d", len(e.callers.programs.answers), n)
	}
}

// TestCallers_unambiguous: two programs whose paths read the same when strung together are not confused.
func TestCallers_unambiguous(t *testing.T) {
	e := compile(t, &policy.Policy{Network: []policy.NetworkPolicy{policyOf("p", "a.example", "/b")}})
	for _, tc := range []struct {
		exe       string
		ancestors []string
		want      bool
	}{
		{"/a", []string{"/b"}, true}, {"/a/b", nil, false}, {"/a\x00/b", nil, false}, {"/a\x02/b", nil, false}, {"", []string{"/a/b"}, false},
	} {
		in := Input{Host: "a.example", Port: 443, Exe: tc.exe, Ancestors: tc.ancestors}
		if got := decide(t, e, in).Allow; got != tc.want {
			t.Errorf("Decide(%q, %q) = %v, want %v", tc.exe, tc.ancestors, got, tc.want)
		}
	}
}

// TestDecide_concurrent is for the race detector: one engine, many goroutines, known and unknown programs.
func TestDecide_concurrent(t *testing.T) {
	p := &policy.Policy{}
	for _, shape := range shapes {
		p.Network = append(p.Network, shape.make(20).Network...)
	}
	e := compile(t, p)
	want := decide(t, e, Input{Host: "h7.example.com", Port: 443, Exe: "/usr/bin/curl"})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				in := Input{Host: "h7.example.com", Port: 443, Exe: "/usr/bin/curl", Ancestors: []string{fmt.Sprintf("/bin/%d", g*i%700)}}
				res, err := e.Decide(context.Background(), in)
				if err != nil || !cmp.Equal(res, want, cmp.Comparer(func(a, b *policy.Endpoint) bool { return a == b })) {
					t.Errorf("Decide(%+v) = %+v, %v, want %+v", in, res, err, want)
					return
				}
				in.Port = uint16(i)
				if res, err := e.Decide(context.Background(), in); err != nil || res.Allow != (i == 443) {
					t.Errorf("Decide(%+v) = %+v, %v", in, res, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
