package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

// tlsOrigin is origin with TLS, HTTP/1.1 and HTTP/2; args[0] is the file of its
// certificate and key.
func tlsOrigin(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	s := &http.Server{Handler: answers(strings.Repeat("x", 256))}
	go s.ServeTLS(l, args[0], args[0])
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// answers serves a small answer on / and n bytes on /bulk?n=.
func answers(small string) http.Handler {
	block := make([]byte, 1<<20)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, small) })
	mux.HandleFunc("/bulk", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		for n > 0 {
			m, err := w.Write(block[:min(n, int64(len(block)))])
			if err != nil {
				return
			}
			n -= int64(m)
		}
	})
	return mux
}

// loop is the least that a proxy can be that ends TLS and begins it anew: it
// parses what passes and judges nothing. It keeps connections to the server, and
// a client has one for as long as it stays.
type loop struct {
	front, back *tls.Config
	to          string
	mu          sync.Mutex
	idle        []*backend
	h2          http.Server
	conns       chan net.Conn
}

type backend struct {
	c  *tls.Conn
	br *bufio.Reader
	bw *bufio.Writer
}

// reoriginate serves as loop; args are the origin's address, the file of roots
// and the file of the certificate that clients see.
func reoriginate(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(args[2], args[2])
	if err != nil {
		return err
	}
	p := &loop{to: args[0], back: trust(args[1]), conns: make(chan net.Conn)}
	p.front = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	p.back.ServerName = tlsName
	p.back.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	p.serveH2()
	fmt.Println(l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	return nil
}

func (p *loop) serve(c net.Conn) {
	br := bufio.NewReader(c)
	if _, err := http.ReadRequest(br); err != nil {
		c.Close()
		return
	}
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	t := tls.Server(c, p.front)
	if t.Handshake() != nil {
		c.Close()
		return
	}
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		p.conns <- t
		return
	}
	defer c.Close()
	if b, err := p.take(); err == nil && p.relay(t, b) {
		p.mu.Lock()
		p.idle = append(p.idle, b)
		p.mu.Unlock()
	}
}

func (p *loop) take() (*backend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		b := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return b, nil
	}
	c, err := tls.Dial("tcp", p.to, p.back)
	if err != nil {
		return nil, err
	}
	return &backend{c, bufio.NewReaderSize(c, 16<<10), bufio.NewWriterSize(c, 16<<10)}, nil
}

// relay passes requests on until the client leaves; it is true if the server's
// connection can be used again.
func (p *loop) relay(c net.Conn, b *backend) bool {
	br, bw := bufio.NewReader(c), bufio.NewWriterSize(c, 16<<10)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return true
		}
		if r.Write(b.bw) != nil || b.bw.Flush() != nil {
			break
		}
		resp, err := http.ReadResponse(b.br, r)
		if err != nil || resp.Write(bw) != nil || bw.Flush() != nil {
			break
		}
		if r.Close || resp.Close {
			break
		}
	}
	b.c.Close()
	return false
}

// serveH2 is the same with net/http on both sides.
func (p *loop) serveH2() {
	var only http.Protocols
	only.SetHTTP2(true)
	back := &http.Transport{TLSClientConfig: p.back.Clone(), Protocols: &only, DisableCompression: true}
	p.h2 = http.Server{Protocols: &only, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := r.Clone(r.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", "https", p.to
		if r.ContentLength == 0 {
			out.Body = nil
		}
		resp, err := back.RoundTrip(out)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})}
	go p.h2.Serve(p)
}

// Accept gives net/http a connection that speaks HTTP/2.
func (p *loop) Accept() (net.Conn, error) { return <-p.conns, nil }

// Addr is of no meaning.
func (p *loop) Addr() net.Addr { return &net.TCPAddr{} }

// Close does nothing: the process ends.
func (p *loop) Close() error { return nil }
