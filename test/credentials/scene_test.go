// Package credentials runs the program with secrets that the test knows, lets an
// agent try everything with its placeholders, and looks for the secrets: in the
// agent's memory, environment and files, in what sallyport writes, and in every
// byte that a server got.
//
// The servers are another host, a network namespace that the test makes; this
// needs root. The agent is Python, which drives curl; what is not installed is
// skipped with a reason.
package credentials

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sallyport/internal/testkit"
)

const (
	ownAddr = "203.0.113.1/24"
)

// hosts are the origins: where they are, and what they do. Those with one
// address are told apart by the server name.
var hosts = []struct {
	name, addr string
	secure     bool
	handler    http.HandlerFunc
}{
	{"api.example", "203.0.113.10", true, bound},
	{"api.example:80", "203.0.113.10", false, echo},
	{"evil.example", "203.0.113.11", true, echo},
	{"plain.example", "203.0.113.11", false, echo},
	{"raw.example", "203.0.113.12", true, echo},
	{"forge.example", "203.0.113.13", true, echo},
	{"cloud.amazonaws.com", "203.0.113.14", true, echo},
	{"model.example", "203.0.113.15", true, model},
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unique is text that is nowhere by chance.
func unique(prefix string) string {
	b := make([]byte, 16)
	rand.Read(b)
	return prefix + hex.EncodeToString(b)
}

// scene is the program under test and a host with servers beside this one.
type scene struct {
	dir, bin string
	n        *testkit.Neighbour
	ca       *testkit.Authority
	servers  map[string]*server
}

func inScene(t *testing.T, f func(t *testing.T, s *scene)) {
	t.Helper()
	testkit.WithNeighbour(t, func(t *testing.T, n *testkit.Neighbour) {
		dir, err := testkit.PublicDir(t)
		fatal(t, err)
		s := &scene{dir: dir, bin: filepath.Join(dir, "sallyport"), n: n, ca: testkit.NewAuthority(t), servers: map[string]*server{}}
		cmd := exec.Command("go", "build", "-o", s.bin, "sallyport/cmd/sallyport")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building: %v\n%s", err, out)
		}
		fatal(t, os.WriteFile(s.file("ca.pem"), s.ca.PEM, 0o644))
		f(t, s)
	}, ownAddr, addresses()...)
}

// addresses are the neighbour's, each once.
func addresses() []string {
	var out []string
	for _, h := range hosts {
		if a := h.addr + "/24"; !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func (s *scene) serveAll(t *testing.T) {
	for _, h := range hosts {
		s.serve(t, h.name, h.addr, h.secure, h.handler)
	}
}

func (s *scene) file(name string) string { return filepath.Join(s.dir, name) }

// write writes a document with READABLE and SECRETS filled in.
func (s *scene) write(t *testing.T, name, text string) string {
	t.Helper()
	var readable []string
	for _, d := range strings.Fields("/usr /bin /sbin /lib /lib64 /etc /proc /dev/urandom") {
		if _, err := os.Stat(d); err == nil {
			readable = append(readable, d)
		}
	}
	text = strings.NewReplacer("READABLE", strings.Join(readable, ", "), "SECRETS", s.file("secrets"), "SCANNER", s.file("scanner")).Replace(text)
	fatal(t, os.WriteFile(s.file(name), []byte(text), 0o644))
	return s.file(name)
}

// server is one origin. It keeps every byte that it got, TLS taken off, and the
// requests as it understood them.
type server struct {
	mu       sync.Mutex
	raw      bytes.Buffer
	requests []string // dumped: method, path, headers, body
}

func (s *server) got() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw.String() + "\n" + strings.Join(s.requests, "\n")
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// serve starts an origin for name: HTTPS with HTTP/1.1 and HTTP/2 on 443, or
// plain HTTP on 80.
func (s *scene) serve(t *testing.T, name, addr string, secure bool, h http.HandlerFunc) *server {
	t.Helper()
	v := &server{}
	s.servers[name] = v
	port := "80"
	if secure {
		port = "443"
	}
	l := s.n.Listen(t, net.JoinHostPort(addr, port))
	if secure {
		l = testkit.Secure(l, s.ca.Leaf(t, name))
	}
	testkit.Serve(t, recorded{l, v}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		var b strings.Builder
		b.WriteString(r.Proto + " " + r.Method + " " + r.Host + r.RequestURI + "\n")
		r.Header.Write(&b)
		b.Write(body)
		v.mu.Lock()
		v.requests = append(v.requests, b.String())
		v.mu.Unlock()
		h(w, r.WithContext(context.WithValue(r.Context(), serverKey{}, v)))
	}))
	return v
}

type serverKey struct{}

// recordMessage keeps a message of a WebSocket beside the requests.
func recordMessage(r *http.Request, text string) {
	v := r.Context().Value(serverKey{}).(*server)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.requests = append(v.requests, "message "+text)
}

// recorded keeps what comes in on plain connections. On TLS the server itself
// needs the tls.Conn; there the requests are what is kept.
type recorded struct {
	net.Listener
	s *server
}

func (r recorded) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if _, secure := c.(*tls.Conn); secure {
		return c, nil
	}
	return &recordedConn{c, r.s}, nil
}

type recordedConn struct {
	net.Conn
	s *server
}

func (c *recordedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.s.mu.Lock()
	c.s.raw.Write(b[:n])
	c.s.mu.Unlock()
	return n, err
}
