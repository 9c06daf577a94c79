package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/egress/identity"
	"sallyport/internal/event"
	"sallyport/internal/policy"
)

func TestConnect(t *testing.T) {
	w := newWorld(t, rules{"api.example.com:443": {Rule: "forge", Line: 7}})
	w.origin(echo, "api.example.com:443")
	c := w.connect("API.example.com.:443")
	c.send("hello")
	c.CloseWrite()
	if got := c.all(); got != "hello" {
		t.Errorf("echo %q", got)
	}
	open := w.event(func(e event.Event) bool { return e.ActivityID == event.Open })
	if open.DstEndpoint.Hostname != "api.example.com" || open.DstEndpoint.IP != "93.184.216.1" && open.DstEndpoint.IP != "127.0.0.1" || open.FirewallRule.Name != "forge" {
		t.Errorf("event of the opening: to %+v, rule %+v", open.DstEndpoint, open.FirewallRule)
	}
	end := w.event(func(e event.Event) bool { return e.ActivityID == event.Close })
	if end.Traffic.BytesOut != 5 || end.Traffic.BytesIn != 5 {
		t.Errorf("traffic %+v, want 5 bytes each way", end.Traffic)
	}
}

func TestConnectEarlyBytes(t *testing.T) {
	w := newWorld(t, rules{"api.example.com:443": {}})
	w.origin(echo, "api.example.com:443")
	c := w.open().send("CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\nearly ")
	if r, err := http.ReadResponse(c.br, &http.Request{Method: "CONNECT"}); err != nil || r.StatusCode != 200 {
		t.Fatal(r, err)
	}
	c.send("late")
	c.CloseWrite()
	if got := c.all(); got != "early late" {
		t.Errorf("echo %q", got)
	}
}

// TestConnectInPieces sends a head byte by byte, and one that needs the large buffer.
func TestConnectInPieces(t *testing.T) {
	w := newWorld(t, rules{"api.example.com:443": {}})
	w.origin(echo, "api.example.com:443")
	for _, padding := range []int{0, 5000} {
		head := "CONNECT api.example.com:443 HTTP/1.1\r\nX: " + strings.Repeat("x", padding) + "\r\n\r\nearly"
		c := w.open()
		for i := 0; i < len(head); {
			n := 1
			if padding > 0 {
				n = min(700, len(head)-i)
			}
			c.send(head[i : i+n])
			i += n
		}
		if r, err := http.ReadResponse(c.br, &http.Request{Method: "CONNECT"}); err != nil || r.StatusCode != 200 {
			t.Fatal(r, err)
		}
		c.CloseWrite()
		if got := c.all(); got != "early" {
			t.Errorf("padding %d: echo %q", padding, got)
		}
	}
}

func TestConnectRefused(t *testing.T) {
	private := policy.Endpoint{Host: "db.internal.example"}
	allow := rules{
		"api.example.com:443": {}, "gone.example.com:443": {}, "slow.example.com:443": {}, "db.internal.example:443": {Endpoint: &private, Rule: "db"},
		"meta.example:80": {AllowedIPs: prefixes("169.254.0.0/16")}, "mixed.example:443": {}, "v6.example:443": {}, "refused.example:443": {},
		"10.0.0.7:443": {}, "127.0.0.1:8080": {}, "self.example:3128": {}, "loop.example:80": {HostService: netip.MustParseAddrPort("127.0.0.1:3128")},
		"rest.example:443":  {Endpoint: &policy.Endpoint{Host: "rest.example", Protocol: policy.REST, Access: "read-only"}},
		"93.184.216.99:443": {}, "empty.example:443": {}, "own.example:443": {},
	}
	for _, c := range []struct {
		why, target  string
		status       int
		code, reason string
		missing      string // type of rule_missing
	}{
		{"no rule", "evil.example:443", 403, "policy_denied", "no_policy_for_host", "network_policy"},
		{"no rule for the port", "api.example.com:22", 403, "policy_denied", "no_policy_for_host", "network_policy"},
		{"no rule for the suffix", "api.example.com.evil:443", 403, "policy_denied", "no_policy_for_host", "network_policy"},
		{"private without allowed_ips", "db.internal.example:443", 403, "ssrf_denied", "private", "allowed_ips"},
		{"metadata with allowed_ips", "meta.example:80", 403, "ssrf_denied", "metadata", ""},
		{"one bad answer among good ones", "mixed.example:443", 403, "ssrf_denied", "loopback", ""},
		{"mapped loopback", "v6.example:443", 403, "ssrf_denied", "loopback", ""},
		{"literal private address", "10.0.0.7:443", 403, "ssrf_denied", "private", "allowed_ips"},
		{"literal loopback", "127.0.0.1:8080", 403, "ssrf_denied", "loopback", ""},
		{"address of this host", "own.example:443", 403, "ssrf_denied", "own_address", ""},
		{"the proxy by address", "127.0.0.1:3128", 403, "proxy_loop", "proxy_loop", ""},
		{"the proxy by name", "localhost:3128", 403, "proxy_loop", "proxy_loop", ""},
		{"the proxy by another loopback address", "127.0.0.2:3128", 403, "proxy_loop", "proxy_loop", ""},
		{"the proxy by the unspecified address", "0.0.0.0:3128", 403, "proxy_loop", "proxy_loop", ""},
		{"the proxy by IPv6", "[::1]:3128", 403, "proxy_loop", "proxy_loop", ""},
		{"the proxy by mapped IPv6", "[::ffff:127.0.0.1]:3128", 403, "proxy_loop", "proxy_loop", ""},
		{"the proxy by DNS", "self.example:3128", 403, "ssrf_denied", "loopback", ""},
		{"the proxy by a host service", "loop.example:80", 403, "proxy_loop", "proxy_loop", ""},
		{"rules that need inspection", "rest.example:443", 503, "inspection_unavailable", "inspection_unavailable", ""},
		{"name that does not exist", "gone.example.com:443", 502, "upstream_unreachable", "name_not_resolved", ""},
		{"name without addresses", "empty.example:443", 502, "upstream_unreachable", "name_not_resolved", ""},
		{"server that refuses", "refused.example:443", 502, "upstream_unreachable", "upstream_unreachable", ""},
		{"server that does not answer", "slow.example.com:443", 504, "upstream_timeout", "upstream_timeout", ""},
	} {
		t.Run(c.why, func(t *testing.T) {
			w := newWorld(t, allow, func(o *Options) {
				o.Limits.Dial = 50 * time.Millisecond
				o.Self = netip.MustParseAddrPort("127.0.0.1:3128")
				o.OwnAddr = func(a netip.Addr) bool { return a == netip.MustParseAddr("93.184.216.200") }
			})
			w.names["db.internal.example"] = addrs("10.4.0.7")
			w.names["meta.example"] = addrs("169.254.169.254")
			w.names["mixed.example"] = addrs("93.184.216.34", "127.0.0.1")
			w.names["v6.example"] = addrs("::ffff:127.0.0.1")
			w.names["self.example"] = addrs("127.0.0.1")
			w.names["refused.example"] = addrs("93.184.216.77")
			w.names["slow.example.com"] = addrs("93.184.216.78")
			w.names["own.example"] = addrs("93.184.216.200")
			w.names["empty.example"] = nil
			w.servers[netip.MustParseAddrPort("93.184.216.78:443")] = "hang"
			conn := w.open().send("CONNECT " + c.target + " HTTP/1.1\r\nHost: " + c.target + "\r\n\r\n")
			r, body := conn.answer("GET")
			var a answer
			if err := json.Unmarshal([]byte(body), &a); err != nil {
				t.Fatalf("body %q: %v", body, err)
			}
			if r.StatusCode != c.status || string(a.Error) != c.code || a.Reason != c.reason || a.Detail == "" || a.Binary != "/usr/bin/curl" && c.code != "proxy_loop" {
				t.Errorf("status %s, answer %+v, want %d %s %s", r.Status, a, c.status, c.code, c.reason)
			}
			if !r.Close || !strings.Contains(r.Header.Get("X-Sallyport-Policy"), c.code) || !strings.Contains(r.Status, ": ") {
				t.Errorf("status %q, header %v", r.Status, r.Header)
			}
			switch {
			case c.missing == "" && a.RuleMissing != nil:
				t.Errorf("rule_missing %+v, want none", a.RuleMissing)
			case c.missing != "" && (a.RuleMissing == nil || a.RuleMissing.Type != c.missing):
				t.Errorf("rule_missing %+v, want %s", a.RuleMissing, c.missing)
			}
			e := w.event(func(event.Event) bool { return true })
			if e.StatusCode != c.reason || e.Metadata.UID != a.ID {
				t.Errorf("event %s with id %q, answer %q", e.StatusCode, e.Metadata.UID, a.ID)
			}
			if failed := c.status >= 500 && c.code != "inspection_unavailable"; (e.ActivityID == event.Fail) != failed || (a.ID == "") != failed {
				t.Errorf("activity %d, id %q", e.ActivityID, a.ID)
			}
			for _, d := range w.dialled {
				if a := d.Addr().Unmap(); !a.Is4() || a.As4()[0] != 93 {
					t.Errorf("dialled %s", d)
				}
			}
		})
	}
}

// TestDeniedNameIsNotResolved: no label of a denied name leaves.
func TestDeniedNameIsNotResolved(t *testing.T) {
	w := newWorld(t, rules{})
	for _, head := range []string{
		"CONNECT c2VjcmV0.evil.example:443 HTTP/1.1\r\n\r\n",
		"GET http://c2VjcmV0.evil.example/ HTTP/1.1\r\nHost: c2VjcmV0.evil.example\r\n\r\n",
	} {
		if r, _ := w.open().send(head).answer("GET"); r.StatusCode != 403 {
			t.Errorf("status %s", r.Status)
		}
	}
	if len(w.resolved) != 0 || len(w.dialled) != 0 {
		t.Errorf("resolved %v, dialled %v", w.resolved, w.dialled)
	}
}

func TestConnectMalformed(t *testing.T) {
	w := newWorld(t, rules{"a.example:443": {}})
	w.origin(echo, "a.example:443")
	for why, head := range map[string]string{
		"no port":                "CONNECT a.example HTTP/1.1\r\n\r\n",
		"userinfo":               "CONNECT u@a.example:443 HTTP/1.1\r\n\r\n",
		"URI":                    "CONNECT http://a.example:443 HTTP/1.1\r\n\r\n",
		"path":                   "CONNECT a.example:443/ HTTP/1.1\r\n\r\n",
		"IPv4 as a number":       "CONNECT 2130706433:443 HTTP/1.1\r\n\r\n",
		"IPv4 in hex":            "CONNECT 0x7f.1:443 HTTP/1.1\r\n\r\n",
		"zone":                   "CONNECT [fe80::1%25lo]:443 HTTP/1.1\r\n\r\n",
		"escaped dot":            "CONNECT a%2eexample:443 HTTP/1.1\r\n\r\n",
		"another Host":           "CONNECT a.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n",
		"another port in Host":   "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:444\r\n\r\n",
		"two Hosts":              "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nHost: a.example:443\r\n\r\n",
		"Content-Length":         "CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
		"Content-Length of 0":    "CONNECT a.example:443 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
		"Transfer-Encoding":      "CONNECT a.example:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"Upgrade":                "CONNECT a.example:443 HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
		"Expect":                 "CONNECT a.example:443 HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
		"bare LF":                "CONNECT a.example:443 HTTP/1.1\nHost: a.example:443\n\n",
		"folded":                 "CONNECT a.example:443 HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
		"HTTP/2":                 "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"TLS to the proxy":       "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n",
		"origin form":            "GET / HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n",
		"asterisk":               "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"https in absolute form": "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"ftp in absolute form":   "GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"method in lower case":   "connect a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
		"empty line first":       "\r\nCONNECT a.example:443 HTTP/1.1\r\n\r\n",
		"ended early":            "CONNECT a.example:443 HT",
		"only a line end":        "\r\n\r\n",
	} {
		t.Run(why, func(t *testing.T) {
			c := w.open().send(head)
			c.CloseWrite()
			r, body := c.answer("GET")
			if r.StatusCode != 400 || !r.Close || !strings.Contains(body, `"error":"bad_request"`) {
				t.Errorf("status %s, body %s", r.Status, body)
			}
		})
	}
	if len(w.dialled) != 0 {
		t.Errorf("dialled %v", w.dialled)
	}
}

// TestHeadLimits are those of a connection to the proxy itself: the answer, the end,
// the event, and what is allocated while many times the bound is sent. What is just
// below a bound is judged, here by a policy that allows nothing.
func TestHeadLimits(t *testing.T) {
	const connect, request = "CONNECT a.example:443 HTTP/1.1\r\n", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"
	const head, large = 8 << 10, 16 << 10
	padded := func(first string, n int) string {
		return first + "X: " + pad(n-len(first)-len("X: \r\n\r\n")) + "\r\n\r\n"
	}
	for _, c := range []struct {
		why, head string
		status    int
		code      code
	}{
		{"slow", connect + "X-Slow: ", 408, headTimeout},
		{"slow with a large head", request + "X-Slow: " + pad(3000), 408, headTimeout},
		{"large CONNECT", padded(connect, head+1), 431, headTooLarge},
		{"far larger CONNECT", padded(connect, times*head), 431, headTooLarge},
		{"less large CONNECT", padded(connect, head), 403, policyDenied},
		{"large request", padded(request, large+2), 431, headTooLarge}, // a buffer is larger by one
		{"far larger request", padded(request, times*large), 431, headTooLarge},
		{"less large request", padded(request, large), 403, policyDenied},
		{"endless line", repeat("A", times*large), 431, headTooLarge},
		{"many fields", request + repeat("X: y\r\n", 128) + "\r\n", 400, badRequestCode},
		{"fewer fields", request + repeat("X: y\r\n", 127) + "\r\n", 403, policyDenied},
		{"silent", "", 0, ""},
	} {
		t.Run(c.why, func(t *testing.T) {
			w := newWorld(t, rules{}, func(o *Options) {
				if o.Limits.RequestHead = large; c.status == 408 || c.status == 0 {
					o.Limits.HeadTime = 300 * time.Millisecond
				}
			})
			n := min(len(c.head), 4<<10) // all of a slow one
			rest := []byte(c.head[n:])
			conn, before := w.saying(c.head[:n]), allocated()
			if _, err := conn.Write(rest); err != nil {
				t.Fatal(err)
			}
			var want []string
			if c.status != 0 {
				want = []string{string(c.code) + " Blocked"}
				if c.code == policyDenied {
					want = []string{"no_policy_for_host Blocked"}
				}
				if r, b := conn.answer("GET"); r.StatusCode != c.status || !strings.Contains(b, `"`+string(c.code)+`"`) {
					t.Errorf("%s %s, want %d %s", r.Status, b, c.status, c.code)
				}
				w.denied()
			}
			if used := allocated() - before; used > memory*large {
				t.Errorf("%d bytes allocated while %d were sent; %d are too many", used, len(c.head), memory*large)
			}
			if got := conn.all(); got != "" {
				t.Errorf("and then %q", got)
			}
			if told := w.told(); !slices.Equal(told, want) {
				t.Errorf("events %q, want %q", told, want)
			}
			conn.Close()
			w.eventually("nothing is held", func() bool { return len(w.server.conns.all())+len(w.server.requests) == 0 })
		})
	}
}

// TestConnectionLimit: one too many is told so, or reset where many are being told;
// each is an event, and none of them is among those that are open.
func TestConnectionLimit(t *testing.T) {
	w := newWorld(t, rules{"a.example:443": {}}, func(o *Options) { o.Limits.Connections = 2 })
	w.origin(echo, "a.example:443")
	a, b := w.connect("a.example:443"), w.connect("a.example:443")
	var want []string
	tooMany := func() *client {
		want = append(want, "too_many_connections Blocked")
		return w.open()
	}
	for range 50 {
		c := tooMany()
		if r, body := c.answer("GET"); r.StatusCode != 429 || !strings.Contains(body, "too_many_connections") {
			t.Errorf("%s %s, want 429", r.Status, body)
		}
		if rest := c.all(); rest != "" {
			t.Errorf("and then %q", rest)
		}
		c.Close()
	}
	w.eventually("they are gone", func() bool { return len(w.server.turned) == 0 })
	for range maxTurned {
		w.server.turned <- struct{}{}
	}
	if got, err := io.ReadAll(tooMany().br); !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
		t.Errorf("%q, %v, want a reset", got, err)
	}
	if open := len(w.server.conns.all()); open != 2 || !slices.Equal(w.told(), want) {
		t.Errorf("%d are open, want 2; events %q", open, w.told())
	}
	a.CloseWrite()
	a.all()
	w.event(func(e event.Event) bool { return e.ActivityID == event.Close })
	a.Close()
	w.eventually("a place", func() bool { return len(w.server.conns.all()) == 1 })
	w.connect("a.example:443")
	b.Close()
}

func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		err  error
		code string
	}{
		{identity.ErrChanged, "identity_changed"},
		{fmt.Errorf("x: %w", identity.ErrUnknown), "identity_unknown"},
		{errors.New("no such process"), "identity_unknown"},
	} {
		w := newWorld(t, rules{"a.example:443": {}})
		w.caller = func() (*identity.Process, error) { return nil, c.err }
		r, body := w.open().send("CONNECT a.example:443 HTTP/1.1\r\n\r\n").answer("GET")
		if r.StatusCode != 403 || !strings.Contains(body, c.code) {
			t.Errorf("%v: %s %s, want %s", c.err, r.Status, body, c.code)
		}
		if e := w.denied(); !strings.Contains(e.StatusDetail, c.err.Error()) {
			t.Errorf("event says %q, want the cause", e.StatusDetail)
		}
		if strings.Contains(body, c.err.Error()) {
			t.Errorf("the agent is told %q", body)
		}
	}
}

type deciderFunc func(context.Context, Query) (Decision, error)

func (f deciderFunc) Decide(ctx context.Context, q Query) (Decision, error) { return f(ctx, q) }

func (f deciderFunc) Endpoint(context.Context, Query, string) (*policy.Endpoint, bool) {
	return nil, false
}

func (f deciderFunc) DecideRequest(ctx context.Context, q Query, _ policy.Request) (Decision, error) {
	return f(ctx, q)
}

func TestPolicyEngineFails(t *testing.T) {
	for why, d := range map[string]deciderFunc{
		"error":            func(context.Context, Query) (Decision, error) { return Decision{}, errors.New("broken") },
		"error but allows": func(context.Context, Query) (Decision, error) { return Decision{Allow: true}, errors.New("broken") },
		"panic":            func(context.Context, Query) (Decision, error) { panic("bug") },
		"nothing":          func(context.Context, Query) (Decision, error) { return Decision{}, nil },
	} {
		t.Run(why, func(t *testing.T) {
			w := newWorld(t, d)
			w.names["a.example"] = addrs("93.184.216.34")
			if r, _ := w.open().send("CONNECT a.example:443 HTTP/1.1\r\n\r\n").answer("GET"); r.StatusCode != 403 {
				t.Errorf("status %s, want 403", r.Status)
			}
			if len(w.resolved)+len(w.dialled) != 0 {
				t.Errorf("resolved %v, dialled %v", w.resolved, w.dialled)
			}
		})
	}
}

func TestHostService(t *testing.T) {
	allow := rules{"model.local:80": {}}
	w := newWorld(t, allow)
	at := w.origin(echo)
	allow["model.local:80"] = Decision{HostService: at}
	c := w.connect("model.local:80")
	c.send("hello")
	c.CloseWrite()
	if got := c.all(); got != "hello" {
		t.Errorf("echo %q", got)
	}
	if len(w.resolved) != 0 || len(w.dialled) != 1 || w.dialled[0] != at {
		t.Errorf("resolved %v, dialled %v, want %s only", w.resolved, w.dialled, at)
	}
}

func TestSecondAddressIsTried(t *testing.T) {
	w := newWorld(t, rules{"a.example:443": {}}, func(o *Options) { o.Limits.Dial = 6 * time.Second })
	w.origin(echo, "a.example:443")
	good := w.names["a.example"][0]
	w.names["a.example"] = append(addrs("2606:4700::99", "93.184.216.250"), good)
	w.servers[netip.MustParseAddrPort("93.184.216.250:443")] = "hang"
	c := w.connect("a.example:443")
	c.CloseWrite()
	c.all()
	if len(w.dialled) != 3 {
		t.Errorf("dialled %v", w.dialled)
	}
}

func TestShutdown(t *testing.T) {
	w := newWorld(t, rules{"a.example:443": {}})
	w.origin(echo, "a.example:443")
	tunnel, idle := w.connect("a.example:443"), w.open()
	w.end()
	for _, c := range []*client{tunnel, idle} {
		if _, err := io.ReadAll(c.br); err != nil && !errors.Is(err, net.ErrClosed) && !isReset(err) {
			t.Errorf("after the end: %v", err)
		}
	}
}

func isReset(err error) bool { return err != nil && strings.Contains(err.Error(), "reset") }

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

var _ = bytes.Equal
