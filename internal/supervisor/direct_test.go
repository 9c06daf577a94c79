package supervisor

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sallyport/internal/egress/identity"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/event"
	"sallyport/internal/kernel/sockdiag"
	"sallyport/internal/policy"
)

// allowsDirect is a Decider that allows everything, directly, and the Caller and the
// Resolver for it.
type allowsDirect struct{ proxy.Decider }

func (allowsDirect) Decide(context.Context, proxy.Query) (proxy.Decision, error) {
	return proxy.Decision{Allow: true, Endpoint: &policy.Endpoint{Protocol: policy.TCP, RelayDirect: true}}, nil
}

func (allowsDirect) Identify(context.Context) (*identity.Process, error) {
	return &identity.Process{}, nil
}

func (allowsDirect) Resolve(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
}

// TestDirectIsOver: a connection that has ended before it was seen was made or was not,
// whether it has carried a byte or not.
func TestDirectIsOver(t *testing.T) {
	for why, c := range map[string]struct {
		n    sockdiag.Count
		want []string
	}{
		"made, and carried nothing": {sockdiag.Count{Known: true, Made: true}, []string{"Open", "Close"}},
		"made":                      {sockdiag.Count{In: 1, Out: 7, Known: true, Made: true}, []string{"Open", "Close"}},
		"refused":                   {sockdiag.Count{Known: true}, []string{"Fail"}},
		"not told of":               {sockdiag.Count{}, []string{"Fail"}},
	} {
		t.Run(why, func(t *testing.T) {
			var got []string
			all := allowsDirect{}
			p, err := proxy.New(proxy.Options{Decider: all, Resolver: all, OwnAddr: func(netip.Addr) bool { return false }, Events: func(e event.Event) { got = append(got, e.ActivityName) }})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			one, err := p.Native(t.Context(), all, "db.example", 5432, true)
			if err != nil || one == nil {
				t.Fatalf("Native = %v, %v", one, err)
			}
			s := &directs{now: time.Now}
			s.over(&direct{Direct: one, of: s}, c.n)
			if !slices.Equal(got, c.want) {
				t.Errorf("events %q, want %q", got, c.want)
			}
		})
	}
}
