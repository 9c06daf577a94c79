package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/policy"
)

// answers is a name server that says something else each time.
type answers struct {
	mu    sync.Mutex
	next  map[string][]string // one address a question; empty: no answer
	asked map[string]int
}

func (a *answers) Resolve(_ context.Context, host string) ([]netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[host]++
	list := a.next[host]
	if len(list) == 0 {
		return nil, errors.New("no such host")
	}
	a.next[host] = list[1:]
	if list[0] == "" {
		return nil, errors.New("server is down")
	}
	return []netip.Addr{netip.MustParseAddr(list[0])}, nil
}

func TestPins(t *testing.T) {
	endpoint := func(host string, refresh bool, p policy.Protocol) policy.Endpoint {
		return policy.Endpoint{Host: host, Protocol: p, PinRefresh: refresh}
	}
	server := &answers{asked: map[string]int{}, next: map[string][]string{
		"session.example": {"192.0.2.1", "192.0.2.2", "192.0.2.3"},
		"refresh.example": {"192.0.2.1", "192.0.2.2", "192.0.2.3"},
		"raw.example":     {"192.0.2.1", "192.0.2.2", "192.0.2.3"},
		"late.example":    {"", "", "192.0.2.2", "192.0.2.3"},
	}}
	s := newPins(server, &policy.Policy{Network: []policy.NetworkPolicy{{Endpoints: []policy.Endpoint{
		endpoint("session.example", false, policy.TCP), endpoint("refresh.example", true, policy.TCP),
		endpoint("raw.example", false, policy.Raw), endpoint("late.example", false, policy.TCP),
	}}}})
	ask := func(host string) (out []string) {
		for range 3 {
			addrs, err := s.Resolve(t.Context(), host)
			if err == nil {
				out = append(out, addrs[0].String())
				addrs[0] = netip.Addr{} // the caller's to change
			}
		}
		return slices.Compact(out)
	}
	for host, want := range map[string][]string{
		"session.example": {"192.0.2.1"},
		"refresh.example": {"192.0.2.1", "192.0.2.2", "192.0.2.3"},
		"raw.example":     {"192.0.2.1", "192.0.2.2", "192.0.2.3"},
		"late.example":    {"192.0.2.2"}, // the first answer, once there is one
	} {
		if diff := cmp.Diff(want, ask(host)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", host, diff)
		}
	}
	if server.asked["session.example"] != 1 {
		t.Errorf("the pinned name was asked for %d times", server.asked["session.example"])
	}
}

func TestSuitable(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("203.0.113.1:1"), netip.MustParseAddrPort("[2001:db8::1]:1")
	for _, tt := range []struct {
		targets []netip.AddrPort
		wanted  string
		want    netip.AddrPort
	}{
		{[]netip.AddrPort{v6, v4}, "198.19.0.1", v4},
		{[]netip.AddrPort{v4, v6}, "fd73:616c:6c79::1", v6},
		{[]netip.AddrPort{v4}, "fd73:616c:6c79::1", v4},
		{[]netip.AddrPort{v6}, "198.19.0.1", netip.AddrPort{}},
		{nil, "198.19.0.1", netip.AddrPort{}},
	} {
		got, ok := suitable(tt.targets, netip.MustParseAddr(tt.wanted))
		if got != tt.want || ok != tt.want.IsValid() {
			t.Errorf("suitable(%v, %s) = %v, %v, want %v", tt.targets, tt.wanted, got, ok, tt.want)
		}
	}
}
