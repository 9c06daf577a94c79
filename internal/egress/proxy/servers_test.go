package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A server here is a real one that notes each request as "METHOD host target"
// and answers with the same line.
type recorder struct {
	at   string
	seen func() []string
}

// settled gives what the server has noted so far. A server may note a request
// after it has answered it, but it notes them in order: one that is sent to it
// directly shows that the ones before it are noted.
func (s recorder) settled(w *world) []string {
	w.t.Helper()
	const mark = " localhost /mark"
	got := func() (all []string, marks int) {
		for _, line := range s.seen() {
			if strings.HasSuffix(line, mark) {
				marks++
				continue
			}
			all = append(all, line)
		}
		return all, marks
	}
	_, before := got()
	c, err := tls.Dial("tcp", s.at, &tls.Config{RootCAs: trusting(public()), ServerName: "api.example.com"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /mark HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	w.eventually("the server notes a request of our own", func() bool { _, marks := got(); return marks > before })
	all, _ := got()
	return all
}

// certificateFiles are those of a name, for programs.
func certificateFiles(t *testing.T, name string) (cert, key string) {
	t.Helper()
	cfg, err := public().Server(name, false)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(cfg.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	var chain []byte
	for _, c := range cfg.Certificates[0].Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	write(t, cert, string(chain))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return cert, key
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// program starts a server program and ends it with the test.
func program(t *testing.T, name string, args ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(path, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, out
}

func linesOf(name string) func() []string {
	return func() []string {
		b, _ := os.ReadFile(name)
		return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' })
	}
}

const nginxConfig = `daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error;
events {}
http {
  log_format line "$request_method $host $request_uri";
  access_log %[1]s/log line;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server {
    listen 127.0.0.1:%[2]d ssl http2;
    ssl_certificate %[3]s; ssl_certificate_key %[4]s;
    location / { return 200 "$request_method $host $request_uri"; }
  }
}
`

// freePort is one for a program that cannot choose it itself: free, and not among those
// of the default range that the kernel gives to others meanwhile (ip_local_port_range).
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(20000)
		if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func startNginx(t *testing.T) recorder {
	cert, key := certificateFiles(t, "api.example.com")
	dir := t.TempDir()
	port := freePort(t)
	config := filepath.Join(dir, "conf")
	write(t, config, fmt.Sprintf(nginxConfig, dir, port, cert, key))
	program(t, "nginx", "-c", config, "-e", filepath.Join(dir, "error"))
	at := fmt.Sprintf("127.0.0.1:%d", port)
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("nginx does not listen")
		}
	}
	return recorder{at, linesOf(filepath.Join(dir, "log"))}
}

const nodeServer = `const fs = require('fs'), [cert, key, log] = process.argv.slice(1);
const s = require('http2').createSecureServer({cert: fs.readFileSync(cert), key: fs.readFileSync(key), allowHTTP1: true}, (q, r) => {
  const line = q.method + ' ' + (q.headers[':authority'] || q.headers.host) + ' ' + q.url;
  fs.appendFileSync(log, line + '\n');
  q.resume(); q.on('end', () => r.end(line));
});
s.listen(0, '127.0.0.1', () => console.log(s.address().port));`

func startNode(t *testing.T) recorder {
	cert, key := certificateFiles(t, "api.example.com")
	log := filepath.Join(t.TempDir(), "log")
	_, out := program(t, "node", "-e", nodeServer, cert, key, log)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return recorder{"127.0.0.1:" + strings.TrimSpace(line), linesOf(log)}
}

func startGo(t *testing.T) recorder {
	var got seen
	cfg, err := public().Server("api.example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	s := &http.Server{TLSConfig: cfg, ErrorLog: quiet(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.add("%s %s %s", r.Method, r.Host, r.RequestURI)
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.RequestURI)
	})}
	done := make(chan struct{})
	go func() { defer close(done); s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { s.Close(); <-done })
	return recorder{l.Addr().String(), got.all}
}

const publicPolicy = `      - host: api.example.com
        port: 443
        protocol: rest
        enforcement: enforce
        rules: [{allow: {method: GET, path: /public/**}}, {allow: {method: POST, path: /public/**}}]
        deny_rules: [{path: /public/secret/**}]`

// targets are what clients send, and what the server may see of it; nothing for
// what is refused.
var targets = []struct{ sent, seen string }{
	{"/public/a", "/public/a"},
	{"/public/./a//b", "/public/a/b"},
	{"//public//a", "/public/a"},
	{"/public/%61%7E", "/public/a~"},
	{"/public/a%20b", "/public/a%20b"},
	{"/public/caf%c3%a9", "/public/caf%C3%A9"},
	{"/public/secret/../a", "/public/a"},
	{"/public/a?x=1;y=2&z=a+b&u=%2f%2F", "/public/a?x=1%3By=2&z=a%20b&u=%2F%2F"},
	{"/public/../secret", ""},
	{"/public/%2e%2e/secret", ""},
	{"/public/..%2fsecret", ""},
	{"/public/%252e%252e/secret", ""},
	{"/public/%2e%2e%2fsecret", ""},
	{"/public/..;/secret", ""},
	{"/public/..\\secret", ""},
	{"/public/..%5csecret", ""},
	{"/public//secret/x", ""},
	{"/public/%73ecret/x", ""},
	{"/public/./secret/x", ""},
	{"/public/x/../secret/x", ""},
	{"/public/secret%2fx", ""},
	{"/public/%c0%ae%c0%ae/secret", ""},
	{"/public/a%00/../../secret", ""},
	{"/secret", ""},
}

// TestServersSeeWhatWasJudged: the target that a real server reads is the one
// that was judged, and of a refused one it sees nothing.
func TestServersSeeWhatWasJudged(t *testing.T) {
	for name, start := range map[string]func(*testing.T) recorder{"go": startGo, "nginx": startNginx, "node": startNode} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/h2=%v", name, h2), func(t *testing.T) {
				s := start(t)
				w, own := inspecting(t, policyOf(t, publicPolicy))
				w.place(s.at, "api.example.com", "443")
				var want []string
				client := w.client(own, h2)
				for _, c := range targets {
					status, body := 0, ""
					if h2 {
						status, body = getRaw(t, client, c.sent)
					} else {
						r, b := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com")).say("GET " + c.sent + " HTTP/1.1\r\nHost: api.example.com\r\n\r\n").answer("GET")
						status, body = r.StatusCode, b
					}
					line := "GET api.example.com " + c.seen
					switch {
					case c.seen == "" && status != 400 && status != 403:
						t.Errorf("%s: status %d %s, want a refusal", c.sent, status, body)
					case c.seen != "" && (status != 200 || body != line):
						t.Errorf("%s: status %d %q, want %q", c.sent, status, body, line)
					}
					if c.seen != "" {
						want = append(want, line)
					}
				}
				if got := s.settled(w); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("the server saw\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		}
	}
}

// getRaw sends a target as it is, which net/http does for an opaque one.
func getRaw(t *testing.T, client *http.Client, target string) (int, string) {
	t.Helper()
	req, err := http.NewRequest("GET", "https://api.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut(target, "?")
	req.URL.Path, req.URL.RawQuery = "", query
	req.URL.Opaque = path
	if strings.HasPrefix(path, "//") {
		req.URL.Opaque = "//api.example.com" + path // net/http takes scheme and host off again
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// smuggled is what a client would like the server to read as a request.
const smuggled = "GET /secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n"

// TestNothingIsSmuggled: no framing makes a server see a request that was not
// judged.
func TestNothingIsSmuggled(t *testing.T) {
	const post = "POST /public/a HTTP/1.1\r\nHost: api.example.com\r\n"
	n := len(smuggled)
	tries := map[string]string{
		"in the body":          post + fmt.Sprintf("Content-Length: %d\r\n\r\n", n) + smuggled,
		"CL.TE":                post + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", n+5) + smuggled,
		"TE.CL":                post + fmt.Sprintf("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", n, smuggled),
		"CL.CL":                post + fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n\r\n", n) + smuggled,
		"CL, CL":               post + fmt.Sprintf("Content-Length: 0, %d\r\n\r\n", n) + smuggled,
		"TE.TE":                post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled,
		"obscure TE":           post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE with a tab":        post + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE behind a space":    post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"TE by underscore":     post + "Transfer_Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"length in hex":        post + fmt.Sprintf("Content-Length: 0x%x\r\n\r\n", n) + smuggled,
		"length with a plus":   post + fmt.Sprintf("Content-Length: +%d\r\n\r\n", n) + smuggled,
		"bare LF in chunk":     post + "Transfer-Encoding: chunked\r\n\r\n0\n\n" + smuggled,
		"bare LF in extension": post + "Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n40\r\n0\r\n\r\n" + smuggled,
		"chunk too large":      post + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + smuggled,
		"trailer":              post + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 5\r\n\r\n" + smuggled,
		"GET with a body":      fmt.Sprintf("GET /public/a HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: %d\r\n\r\n", n) + smuggled,
		"connection: length":   post + fmt.Sprintf("Connection: content-length\r\nContent-Length: %d\r\n\r\n", n) + smuggled,
		"CR in a value":        "GET /public/a HTTP/1.1\r\nHost: api.example.com\r\nX: a\rGET /secret HTTP/1.1\r\n\r\n",
		"LF in a target":       "GET /public/a HTTP/1.1\nHost: api.example.com\n\n" + smuggled,
		"expect":               post + fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", n) + smuggled,
		"upgrade":              "GET /public/a HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + smuggled,
	}
	for name, start := range map[string]func(*testing.T) recorder{"go": startGo, "nginx": startNginx, "node": startNode} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			w, own := inspecting(t, policyOf(t, publicPolicy))
			w.place(s.at, "api.example.com", "443")
			for why, text := range tries {
				c := w.raw(w.tunnelTLS(own, "api.example.com:443", "api.example.com"))
				c.say(text)
				c.Conn.(interface{ CloseWrite() error }).CloseWrite()
				io.Copy(io.Discard, c.br)
				for _, line := range s.seen() {
					if strings.Contains(line, "/secret") {
						t.Fatalf("%s: the server saw %q", why, line)
					}
				}
			}
			if got := s.settled(w); len(got) == 0 || strings.Count(strings.Join(got, "\n"), "/public/a") != len(got) {
				t.Errorf("the server saw %q, want /public/a and nothing else", got)
			}
			// The control: the same bytes sent to the server itself are two requests.
			tc, err := tls.Dial("tcp", s.at, &tls.Config{RootCAs: trusting(public()), ServerName: "api.example.com"})
			if err != nil {
				t.Fatal(err)
			}
			defer tc.Close()
			c := w.raw(tc).say(post + "Content-Length: 0\r\n\r\n" + smuggled)
			c.answer("POST")
			c.answer("GET")
			w.eventually("the server sees what nobody judges", func() bool { return strings.Contains(strings.Join(s.seen(), "\n"), "/secret") })
		})
	}
}
