package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The roles of this program besides the driver: processes that are measured, or
// that measure from inside a sandbox. Each prints one line of JSON, or serves
// until its standard input ends.
var roles = map[string]func(args []string) error{
	"origin": origin, "splice": splice, "load": load, "hold": hold,
	"tlsorigin": tlsOrigin, "reoriginate": reoriginate, "tlsload": tlsLoad, "guard": guard,
}

// origin serves small answers on / and args[0] bytes on /bulk, and says where.
func origin([]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go http.Serve(l, answers("ok"))
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// splice is the least that a CONNECT proxy can be: it reads a head, dials
// args[0] whatever the head says, and copies. It judges nothing.
func splice(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go spliceOne(c.(*net.TCPConn), args[0])
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	return nil
}

func spliceOne(c *net.TCPConn, to string) {
	defer c.Close()
	br := bufio.NewReaderSize(c, 2048)
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) <= 2 {
			break
		}
	}
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer up.Close()
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() {
		io.Copy(up, c)
		up.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	io.Copy(c, up)
	c.CloseWrite()
	<-done
}

// loadSpec says how to reach the origin and what to do.
type loadSpec struct {
	Proxy, Host string // Proxy empty: connect to Host
	What        string // conn: a connection and a request each; bulk: one transfer; dial: socket, connect and close
	Workers     int
	For         time.Duration
	Bytes       int64

	name string // of Host, without the port
}

// loadResult has operations a second, or MiB a second for bulk.
type loadResult struct {
	Rate     float64
	P50, P99 time.Duration
	Errors   int
	Err      string
	Done     int // operations
}

// load runs the spec in args[0].
func load(args []string) error {
	var s loadSpec
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return err
	}
	if s.Proxy == "env" {
		s.Proxy = strings.TrimPrefix(os.Getenv("HTTP_PROXY"), "http://")
	}
	name, port, err := net.SplitHostPort(s.Host)
	if err != nil {
		return err
	}
	s.name = name
	if s.Proxy == "" { // one look-up, not one for each connection
		addrs, err := net.DefaultResolver.LookupHost(context.Background(), name)
		if err != nil {
			return err
		}
		s.Host = net.JoinHostPort(addrs[0], port)
	}
	var mu sync.Mutex
	var all []time.Duration
	var r loadResult
	var wg sync.WaitGroup
	begin := time.Now()
	for range s.Workers {
		wg.Go(func() {
			var own []time.Duration
			for time.Since(begin) < s.For {
				t := time.Now()
				if err := s.once(); err != nil {
					mu.Lock()
					r.Errors, r.Err = r.Errors+1, err.Error()
					mu.Unlock()
					return
				}
				own = append(own, time.Since(t))
				if s.What == "bulk" {
					break
				}
			}
			mu.Lock()
			all = append(all, own...)
			mu.Unlock()
		})
	}
	wg.Wait()
	took := time.Since(begin).Seconds()
	slices.Sort(all)
	if len(all) > 0 {
		r.P50, r.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	r.Rate = float64(len(all)) / took
	if s.What == "bulk" {
		r.Rate *= float64(s.Bytes) / (1 << 20)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (s loadSpec) once() error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if s.What == "dial" {
		// A reset, so that no port stays taken for a minute.
		return c.(*net.TCPConn).SetLinger(0)
	}
	path := "/"
	if s.What == "bulk" {
		path = fmt.Sprintf("/bulk?n=%d", s.Bytes)
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, s.name); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, c)
	if err == nil && n < max(s.Bytes, 20) {
		err = fmt.Errorf("%d bytes came", n)
	}
	return err
}

func (s loadSpec) connect() (net.Conn, error) {
	if s.Proxy == "" {
		return net.Dial("tcp", s.Host)
	}
	c, err := net.Dial("tcp", s.Proxy)
	if err != nil || s.What == "dial" {
		return c, err
	}
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.Host, s.Host); err != nil {
		return nil, err
	}
	var b [512]byte
	n, err := c.Read(b[:])
	if err == nil && !strings.Contains(string(b[:n]), " 200 ") {
		err = fmt.Errorf("the proxy says %.60q", b[:n])
	}
	if err != nil {
		c.Close()
	}
	return c, err
}

// hold opens args[1] connections to args[0], one after the other with 64 under
// way, prints how long each took, and keeps them until its input ends.
func hold(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(args[0])
	if err != nil {
		return err
	}
	addrs, err := net.DefaultResolver.LookupHost(context.Background(), host)
	if err != nil {
		return err
	}
	to := net.JoinHostPort(addrs[0], port)
	conns, took := make([]net.Conn, n), make([]time.Duration, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	begin := time.Now()
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			t := time.Now()
			conns[i], _ = net.Dial("tcp", to)
			took[i] = time.Since(t)
			if conns[i] != nil {
				// A request whose answer is awaited: the way to the origin stands.
				fmt.Fprintf(conns[i], "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
				var b [12]byte
				if _, err := io.ReadFull(conns[i], b[:]); err != nil || string(b[:]) != "HTTP/1.1 200" {
					conns[i] = nil
				}
			}
		})
	}
	wg.Wait()
	r := loadResult{Rate: float64(n) / time.Since(begin).Seconds()}
	slices.Sort(took)
	r.P50, r.P99 = took[n/2], took[n*99/100]
	for _, c := range conns {
		if c == nil {
			r.Errors++
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	io.Copy(io.Discard, os.Stdin)
	return nil
}
