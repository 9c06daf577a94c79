package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sallyport/internal/egress/inspect"
	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

// ends is an Inspector, as the supervisor puts one together.
type ends struct {
	*inspect.Authority
	*inspect.Upstream
}

// public plays the authority that signs the servers of the world.
var public = sync.OnceValue(func() *inspect.Authority {
	a, err := inspect.NewAuthority()
	if err != nil {
		panic(err)
	}
	return a
})

// inspecting is newWorld with an Inspector that trusts public.
func inspecting(t testing.TB, d Decider, change ...func(*Options)) (*world, *inspect.Authority) {
	t.Helper()
	own, err := inspect.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	up := inspect.NewUpstream(inspect.UpstreamOptions{CA: public().PEM(), NoSystem: true})
	return newWorld(t, d, append([]func(*Options){func(o *Options) { o.Inspector = ends{own, up} }}, change...)...), own
}

// seen is what a server was asked.
type seen struct {
	mu   sync.Mutex
	list []string
}

func (s *seen) add(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, fmt.Sprintf(format, args...))
}

func (s *seen) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.list...)
}

// secureWeb is web over TLS, with HTTP/2 if h2, and a certificate for the name.
func (w *world) secureWeb(h2 bool, h http.HandlerFunc, host string) {
	w.t.Helper()
	name, port, _ := strings.Cut(host, ":")
	cfg, err := public().Server(name, h2)
	if err != nil {
		w.t.Fatal(err)
	}
	w.secureServer(cfg, &http.Server{Handler: h, ErrorLog: quiet()}, name, port)
}

// secureRaw is a TLS server that handles each connection by hand.
func (w *world) secureRaw(host string, handle func(net.Conn, *bufio.Reader), protocols ...string) *net.TCPListener {
	w.t.Helper()
	name, port, _ := strings.Cut(host, ":")
	cfg, err := public().Server(name, len(protocols) > 0)
	if err != nil {
		w.t.Fatal(err)
	}
	l := listen(w.t)
	testkit.Accept(w.t, l, func(c net.Conn) {
		t := tls.Server(c, cfg)
		if t.Handshake() == nil {
			handle(t, bufio.NewReader(t))
			t.Close()
		}
	})
	w.t.Cleanup(func() { w.end(); w.server.Close() })
	w.place(l.Addr().String(), name, port)
	return l
}

func (w *world) secureServer(cfg *tls.Config, s *http.Server, name, port string) {
	l := listen(w.t)
	s.TLSConfig = cfg.Clone() // which net/http changes
	done := make(chan struct{})
	go func() { defer close(done); s.ServeTLS(l, "", "") }()
	w.t.Cleanup(func() { w.end(); w.server.Close(); s.Close(); <-done })
	w.place(l.Addr().String(), name, port)
}

// place gives a name and port a public address that leads to a server.
func (w *world) place(at, name, port string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	addr := netip.AddrFrom4([4]byte{93, 184, 218, byte(len(w.servers) + 1)})
	w.names[name] = []netip.Addr{addr}
	w.servers[netip.MustParseAddrPort(addr.String()+":"+port)] = at
}

// listener serves the proxy on a port of its own, for real clients.
func (w *world) listener() string {
	w.t.Helper()
	l := listen(w.t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() { w.server.serve(w.ctx, c, w.caller, curl, (*session).proxied) })
		}
	})
	w.t.Cleanup(func() { l.Close(); w.end(); w.server.Close(); wg.Wait() })
	return l.Addr().String()
}

// client is an HTTP client behind the proxy that trusts own only.
func (w *world) client(own *inspect.Authority, h2 bool) *http.Client {
	w.t.Helper()
	at := w.listener()
	tr := &http.Transport{
		Proxy:             func(*http.Request) (*url.URL, error) { return url.Parse("http://" + at) },
		TLSClientConfig:   &tls.Config{RootCAs: trusting(own)},
		ForceAttemptHTTP2: h2, DisableCompression: true,
	}
	if !h2 {
		tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

var readOnly = policy.Endpoint{Host: "api.example.com", Ports: []uint16{443}, Protocol: policy.REST, Access: "read-only", Line: 7}

func restrict(e policy.Endpoint) rules {
	return rules{fmt.Sprintf("%s:%d", e.Host, e.Ports[0]): {Rule: "forge", Line: e.Line, Endpoint: &e}}
}

// TestInspectedCurl is an allowed GET and a denied POST to one host, over both
// versions of HTTP, from curl.
func TestInspectedCurl(t *testing.T) {
	path, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	for version, h2 := range map[string]bool{"--http1.1": false, "--http2": true} {
		t.Run(version, func(t *testing.T) {
			w, own := inspecting(t, restrict(readOnly))
			var got seen
			w.secureWeb(true, func(rw http.ResponseWriter, r *http.Request) {
				got.add("%s %s %s HTTP/%d", r.Method, r.Host, r.RequestURI, r.ProtoMajor)
				io.WriteString(rw, "hello")
			}, "api.example.com:443")
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, own.PEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			run := func(args ...string) string {
				cmd := exec.Command(path, append([]string{"-sS", version, "--cacert", ca, "--proxy", "http://" + w.listener(), "--max-time", "20", "-w", "\n%{http_code} %{http_version}"}, args...)...)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("curl %q: %v\n%s", args, err, out)
				}
				return string(out)
			}
			want := "hello\n200 1.1"
			if h2 {
				want = "hello\n200 2"
			}
			if out := run("https://api.example.com/a/%2e%2e/b?x=1"); out != want {
				t.Errorf("GET: %q, want %q", out, want)
			}
			out := run("-d", "x=1", "https://api.example.com/b")
			var a answer
			if body, status, ok := strings.Cut(out, "\n403 "); !ok || json.Unmarshal([]byte(body), &a) != nil || status == "" {
				t.Fatalf("POST: %q, want a 403 with JSON", out)
			}
			if a.Error != policyDenied || a.Layer != "l7" || a.Method != "POST" || a.Path != "/b" || a.Host != "api.example.com" || a.Binary != curl.Exe || a.ID == "" {
				t.Errorf("POST: %+v", a)
			}
			if got := fmt.Sprint(got.all()); got != fmt.Sprintf("[GET api.example.com /b?x=1 HTTP/%d]", 1+b2i(h2)) {
				t.Errorf("the server saw %s", got)
			}
			e := w.denied()
			if e.HTTPRequest == nil || e.HTTPRequest.HTTPMethod != "POST" {
				t.Errorf("event of the denial: %+v", e)
			}
			w.event(func(e event.Event) bool { return e.HTTPResponse != nil && e.HTTPResponse.Code == 200 })
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// trusting holds one authority.
func trusting(a *inspect.Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(a.PEM())
	return p
}

// tunnelTLS opens a tunnel and makes TLS in it.
func (w *world) tunnelTLS(own *inspect.Authority, target, name string, protocols ...string) *tls.Conn {
	w.t.Helper()
	c := w.connect(target)
	t := tls.Client(c.TCPConn, &tls.Config{RootCAs: trusting(own), ServerName: name, NextProtos: protocols})
	if err := t.Handshake(); err != nil {
		w.t.Fatalf("TLS with %s in a tunnel to %s: %v", name, target, err)
	}
	return t
}
