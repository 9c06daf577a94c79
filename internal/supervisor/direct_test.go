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
// whether it has carried a byte or not and whether its bytes are known.
func TestDirectIsOver(t *testing.T) {
	for why, c := range map[string]struct {
		n    sockdiag.Count
		want []string
	}{
		"made, and carried nothing": {sockdiag.Count{Known: true, Made: true}, []string{"Open", "Close counted"}},
		"made":                      {sockdiag.Count{In: 1, Out: 7, Known: true, Made: true}, []string{"Open", "Close counted"}},
		"made, and reset":           {sockdiag.Count{Made: true}, []string{"Open", "Close"}},
		"refused":                   {sockdiag.Count{Known: true}, []string{"Fail"}},
		"never seen":                {sockdiag.Count{}, []string{"Fail"}},
	} {
		t.Run(why, func(t *testing.T) {
			d, got := oneDirect(t)
			d.of.over(d, c.n)
			if !slices.Equal(*got, c.want) {
				t.Errorf("events %q, want %q", *got, c.want)
			}
		})
	}
}

// TestDirectIsGone: a connection that the kernel does not have any more is not judged before what it tells of its end
// can be here; what that says counts.
func TestDirectIsGone(t *testing.T) {
	for why, c := range map[string]struct {
		then func(*direct)
		want []string
	}{
		"its end is heard":     {func(d *direct) { d.of.over(d, sockdiag.Count{Made: true}) }, []string{"Open", "Close"}},
		"its end is not heard": {func(d *direct) { d.of.check(d) }, []string{"Fail"}},
	} {
		t.Run(why, func(t *testing.T) {
			d, got := oneDirect(t)
			defer d.of.diag.Close()
			d.local, d.remote, d.cookie = netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:1"), 1
			d.of.check(d)
			if len(*got) != 0 {
				t.Errorf("events %q before its end could be heard", *got)
			}
			c.then(d)
			if !slices.Equal(*got, c.want) {
				t.Errorf("events %q, want %q", *got, c.want)
			}
		})
	}
}

// oneDirect is a connection of which nothing has been told, and the events of it.
func oneDirect(t *testing.T) (*direct, *[]string) {
	t.Helper()
	got := &[]string{}
	all := allowsDirect{}
	p, err := proxy.New(proxy.Options{Decider: all, Resolver: all, OwnAddr: func(netip.Addr) bool { return false }, Events: func(e event.Event) {
		if e.Traffic != nil {
			e.ActivityName += " counted"
		}
		*got = append(*got, e.ActivityName)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	one, err := p.Native(t.Context(), all, "db.example", 5432, true)
	if err != nil || one == nil {
		t.Fatalf("Native = %v, %v", one, err)
	}
	return &direct{Direct: one, of: &directs{now: time.Now}}, got
}
