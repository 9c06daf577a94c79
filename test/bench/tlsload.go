package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// tlsSpec says how to reach an origin with TLS and what to do there.
type tlsSpec struct {
	Proxy   string // "env": that of the environment; empty: none
	Host    string // where to connect to, or what CONNECT says
	Name    string // in TLS and in requests
	Roots   string // file of PEM; empty: those of the system
	What    string // keep: requests on connections that stay; conn: a connection for each; bulk; idle
	H2      bool
	Workers int
	For     time.Duration
	Bytes   int64
	Rate    int // requests a second of all workers together; 0: as many as there can be
}

// tlsLoad does what args[0] says in steps, so that whoever started it can look at
// others meanwhile: it says "ready" with its connections made, begins at a line,
// prints its result, and ends with its input.
func tlsLoad(args []string) error {
	var s tlsSpec
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return err
	}
	if s.Proxy == "env" {
		s.Proxy = strings.TrimPrefix(os.Getenv("HTTPS_PROXY"), "http://")
	}
	cfg := trust(s.Roots)
	cfg.ServerName, cfg.NextProtos = s.Name, []string{"http/1.1"}
	if s.H2 {
		cfg.NextProtos = []string{"h2"}
	}
	l := &tlsWork{tlsSpec: s, cfg: cfg, host: s.Name}
	if _, port, err := net.SplitHostPort(s.Host); err == nil && port != "443" {
		l.host += ":" + port
	}
	if err := l.prepare(); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(l.run()); err != nil {
		return err
	}
	io.Copy(io.Discard, in)
	return nil
}

type tlsWork struct {
	tlsSpec
	cfg   *tls.Config
	host  string                    // of requests
	asked []func(path string) error // one for each worker that keeps a connection
}

// prepare makes the connections that stay, 32 at a time, and warms each up.
func (l *tlsWork) prepare() error {
	l.asked = make([]func(string) error, l.Workers)
	var wg sync.WaitGroup
	errs := make([]error, l.Workers)
	slots := make(chan struct{}, 32)
	for i := range l.Workers {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if l.asked[i], errs[i] = l.open(); errs[i] == nil {
				errs[i] = l.asked[i]("/")
			}
		})
	}
	wg.Wait()
	failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d connections failed, such as: %w", len(failed), l.Workers, failed[0])
	}
	return nil
}

func (l *tlsWork) run() (r loadResult) {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range l.Workers {
		wg.Go(func() {
			own, err := l.work(i, begin)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			if err != nil {
				r.Errors, r.Err = r.Errors+1, err.Error()
			}
		})
	}
	wg.Wait()
	took := time.Since(begin).Seconds()
	slices.Sort(all)
	if len(all) > 0 {
		r.P50, r.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	r.Done = len(all)
	r.Rate = float64(len(all)) / took
	if l.What == "bulk" {
		r.Rate *= float64(l.Bytes) / (1 << 20)
	}
	return r
}

// work is what one worker does; it gives how long each request took. At a given
// rate a request that could not begin in time has taken from then on.
func (l *tlsWork) work(i int, begin time.Time) (took []time.Duration, err error) {
	path := "/"
	if l.What == "bulk" {
		path = fmt.Sprintf("/bulk?n=%d", l.Bytes)
	}
	next, step := begin, time.Duration(0)
	if l.Rate > 0 {
		step = time.Second * time.Duration(l.Workers) / time.Duration(l.Rate)
		next = begin.Add(step * time.Duration(i) / time.Duration(l.Workers))
	}
	for time.Since(begin) < l.For && l.What != "idle" {
		from := time.Now()
		if step > 0 {
			if from.Before(next) {
				time.Sleep(next.Sub(from))
				from = time.Now() // how late the clock is, is not the proxy's
			} else {
				from = next
			}
			next = next.Add(step)
		}
		if l.What == "conn" {
			err = l.once(path)
		} else {
			err = l.asked[i](path)
		}
		if err != nil {
			return took, err
		}
		took = append(took, time.Since(from))
		if l.What == "bulk" {
			break
		}
	}
	return took, nil
}

// once makes a connection for one request.
func (l *tlsWork) once(path string) error {
	c, err := l.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return l.http1(c)(path)
}

// open makes a connection and gives what asks on it.
func (l *tlsWork) open() (func(path string) error, error) {
	c, err := l.dial()
	if err != nil {
		return nil, err
	}
	if !l.H2 {
		return l.http1(c), nil
	}
	var only http.Protocols
	only.SetHTTP2(true)
	t := &http.Transport{Protocols: &only, DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	cc, err := t.NewClientConn(context.Background(), "https", l.Name+":443")
	if err != nil {
		return nil, err
	}
	return func(path string) error {
		r, err := http.NewRequest("GET", "https://"+l.host+path, nil)
		if err != nil {
			return err
		}
		resp, err := cc.RoundTrip(r)
		if err != nil {
			return err
		}
		return l.drain(resp)
	}, nil
}

func (l *tlsWork) http1(c net.Conn) func(path string) error {
	br := bufio.NewReaderSize(c, 16<<10)
	return func(path string) error {
		_, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: "+l.host+"\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
		if err != nil {
			return err
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return err
		}
		return l.drain(resp)
	}
}

func (l *tlsWork) drain(resp *http.Response) error {
	n, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err == nil && (resp.StatusCode != 200 || n == 0) {
		err = fmt.Errorf("%s with %d bytes", resp.Status, n)
	}
	return err
}

func (l *tlsWork) dial() (*tls.Conn, error) {
	c, err := loadSpec{Proxy: l.Proxy, Host: l.Host, What: "conn"}.connect()
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, l.cfg)
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	if l.H2 && t.ConnectionState().NegotiatedProtocol != "h2" {
		c.Close()
		return nil, errors.New("no HTTP/2")
	}
	return t, nil
}
