package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/egress/inspect"
	"sallyport/internal/event"
	"sallyport/internal/testkit"
)

// minimal ends TLS, parses each request, sends it on over one connection of its
// own and passes the answer back: what is left when nothing is judged.
func minimal(w *world, own *inspect.Authority, host, port string) string {
	w.t.Helper()
	l := listen(w.t)
	up := inspect.NewUpstream(inspect.UpstreamOptions{CA: public().PEM(), NoSystem: true})
	serve := func(c net.Conn) {
		br := bufio.NewReader(c)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		front, err := own.Server(host, false)
		if err != nil {
			return
		}
		t := tls.Server(c, front)
		back, err := up.Client(host, false)
		if err != nil {
			return
		}
		at := w.servers[netip.MustParseAddrPort(w.names[host][0].String()+":"+port)]
		u, err := tls.Dial("tcp", at, back)
		if err != nil {
			return
		}
		defer u.Close()
		fromClient, fromServer := bufio.NewReader(t), bufio.NewReader(u)
		toServer, toClient := bufio.NewWriter(u), bufio.NewWriter(t)
		for {
			r, err := http.ReadRequest(fromClient)
			if err != nil {
				return
			}
			r.URL.Scheme, r.URL.Host = "https", r.Host
			if r.Write(toServer) != nil || toServer.Flush() != nil {
				return
			}
			resp, err := http.ReadResponse(fromServer, r)
			if err != nil || resp.Write(toClient) != nil || toClient.Flush() != nil {
				return
			}
		}
	}
	testkit.Accept(w.t, l, serve)
	return l.Addr().String()
}

// loop sends requests over one kept connection, as a load driver does: no more
// is parsed than must be.
type loop struct {
	c  *tls.Conn
	br *bufio.Reader
}

func newLoop(t testing.TB, at, host string, roots *x509.CertPool) *loop {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "CONNECT "+host+":443 HTTP/1.1\r\nHost: "+host+":443\r\n\r\n")
	br := bufio.NewReader(c)
	if r, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"}); err != nil || r.StatusCode != 200 {
		t.Fatalf("CONNECT: %v %v", r, err)
	}
	tc := tls.Client(c, &tls.Config{RootCAs: roots, ServerName: host})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &loop{tc, bufio.NewReader(tc)}
}

func (l *loop) get(host string) error {
	if _, err := io.WriteString(l.c, "GET /a/b?x=1 HTTP/1.1\r\nHost: "+host+"\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"); err != nil {
		return err
	}
	r, err := http.ReadResponse(l.br, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// BenchmarkKeepAlive is 16 clients with one connection each.
func BenchmarkKeepAlive(b *testing.B) {
	const host = "api.example.com"
	body := strings.Repeat("x", 256)
	for _, which := range []string{"minimal", "inspected"} {
		b.Run(which, func(b *testing.B) {
			w, own := inspecting(b, restrict(readOnly), func(o *Options) { o.Events = func(event.Event) {} })
			w.secureWeb(false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, body) }, host+":443")
			at := ""
			if which == "minimal" {
				at = minimal(w, own, host, "443")
			} else {
				at = w.listener()
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(own.PEM())
			var loops [16]*loop
			for i := range loops {
				loops[i] = newLoop(b, at, host, roots)
			}
			work := make(chan struct{}, 64)
			var wg sync.WaitGroup
			for _, l := range loops {
				wg.Go(func() {
					for range work {
						if err := l.get(host); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			b.ResetTimer()
			start, cpu := time.Now(), cpuTime(b)
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "req/s")
		})
	}
}

// cpuTime is what this process has used, clients and servers of the benchmark
// included: it says more than the clock on a machine that is not idle.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkNewConnection is one client that makes a connection for each request.
func BenchmarkNewConnection(b *testing.B) {
	const host = "api.example.com"
	for _, which := range []string{"minimal", "inspected"} {
		b.Run(which, func(b *testing.B) {
			w, own := inspecting(b, restrict(readOnly), func(o *Options) { o.Events = func(event.Event) {} })
			w.secureWeb(false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "ok") }, host+":443")
			at := ""
			if which == "minimal" {
				at = minimal(w, own, host, "443")
			} else {
				at = w.listener()
			}
			roots := trusting(own)
			b.ResetTimer()
			cpu := cpuTime(b)
			for range b.N {
				l := newLoop(b, at, host, roots)
				if err := l.get(host); err != nil {
					b.Fatal(err)
				}
				l.c.Close()
			}
			b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}
