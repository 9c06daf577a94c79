package supervisor

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sallyport/internal/egress/inference"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/policy"
	"sallyport/internal/policy/profile"
)

// localHosts are the hosts that the proxy answers for by itself.
func (s *sandbox) localHosts() (proxy.Local, error) {
	if s.o.RunConfig == nil || s.o.RunConfig.Inference == nil {
		return nil, nil
	}
	c := s.o.RunConfig.Inference
	for _, r := range c.Routes {
		if r.Provider != "" && !s.creds.injector.CanAuthorize(r.Provider) {
			return nil, refused("", "inference: provider %s has no key that is sent in a header", r.Provider)
		}
	}
	s.backends = &http.Transport{
		DialContext: s.dialBackend, DialTLSContext: s.dialBackendTLS,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
	}
	router, err := inference.New(inference.Options{Config: c, Keys: s.creds.injector, Transport: s.backends})
	if err != nil {
		return nil, err
	}
	return proxy.Local{policy.InferenceHost: router}, s.inferenceEnv(c)
}

// backendDial bounds connecting to a backend.
const backendDial = 15 * time.Second

// dialBackend connects to a backend. The configuration names it, and the agent
// cannot choose it: it may be on this host or in a private network.
func (s *sandbox) dialBackend(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, backendDial)
	defer cancel()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	addrs, err := (&proxy.SystemResolver{Fixed: s.o.Resolve}).Resolve(ctx, host)
	if a, no := netip.ParseAddr(host); no == nil {
		addrs, err = []netip.Addr{a}, nil
	}
	var d net.Dialer
	for _, a := range addrs {
		var c net.Conn
		if c, err = d.DialContext(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
			return c, nil
		}
	}
	if err == nil {
		err = errors.New("no addresses")
	}
	return nil, err
}

// dialBackendTLS is dialBackend with TLS; the backend is verified like any
// server.
func (s *sandbox) dialBackendTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	cfg, err := s.ends.Client(host, false)
	if err != nil {
		return nil, err
	}
	c, err := s.dialBackend(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// dialects are the variables by which client libraries find an API and its key.
var dialects = map[policy.API]struct{ base, baseURL, key, profile string }{
	policy.OpenAI:    {"OPENAI_BASE_URL", "https://" + policy.InferenceHost + "/v1", "OPENAI_API_KEY", "openai"},
	policy.Anthropic: {"ANTHROPIC_BASE_URL", "https://" + policy.InferenceHost, "ANTHROPIC_API_KEY", "anthropic"},
}

// inferenceEnv leads client libraries to inference.local. Where there is no key
// they get one that opens nothing, because they do not start without.
func (s *sandbox) inferenceEnv(c *policy.Inference) error {
	set := func(name string) bool {
		return slices.ContainsFunc(slices.Concat(s.o.Env, s.creds.env), func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
	}
	for _, r := range c.Routes {
		d := dialects[r.API]
		if !set(d.base) {
			s.creds.env = append(s.creds.env, d.base+"="+d.baseURL)
		}
		if set(d.key) {
			continue
		}
		p, _ := profile.Find(d.profile)
		key, err := p.Credentials[0].Shape.New(rand.Reader)
		if err != nil {
			return err
		}
		s.creds.env = append(s.creds.env, d.key+"="+key)
	}
	return nil
}
