package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/event"
)

// Options of a Server. Decider and Resolver are required; the zero value of
// every other field is its default.
type Options struct {
	Decider   Decider
	Resolver  Resolver
	Dialer    Dialer                // plain TCP by default
	Inspector Inspector             // none by default
	Secrets   Credentials           // none by default
	Local     Local                 // hosts that are not reached but answered for; none by default
	Events    event.Sink            // told of every verdict and every end; may be nil
	Quiet     bool                  // Events is not told of requests that a rule has allowed, because nobody keeps them
	DenialID  func() string         // gives each denial its id; may be nil
	Self      netip.AddrPort        // where the proxy listens, to recognise itself
	OwnAddr   func(netip.Addr) bool // whether an address is one of this host's; asks the kernel by default
	Now       func() time.Time      // time.Now by default; for the length of connections
	Limits    Limits
}

// Limits bound what one sandbox can make the proxy hold, and for how long.
// What happens at each bound is in its comment; it is an event, too. Zero means
// the default.
type Limits struct {
	Connections int           // at once; more get 429, or a reset where many do. Default: what the descriptors allow, at most 16,384
	Requests    int           // connections that carry plain HTTP, at once; more get 503. One that waits for its next request does not count. Default 1,024
	Inspected   int           // connections whose TLS is ended here and that carry HTTP, at once; more get 503, with HTTP/2 a reset. Counted as Requests. Default 4,096
	Streams     int           // requests on one HTTP/2 connection, at once; more wait. Default 128
	Pooled      int           // idle connections to servers that are kept; the oldest are closed. Default 256
	ConnectHead int           // bytes of a CONNECT head; more is 431. Default 8 KiB
	RequestHead int           // bytes of another head, or of an answer's; more is 431 or 502. Default 32 KiB
	HeadTime    time.Duration // for a whole head or ClientHello; longer is 408. Default 10 s
	PeekTime    time.Duration // for a captured client to speak first. Default 300 ms
	Held        int64         // bytes of bodies that are held for inspection, of what was found in them, and of events until they are read, at once; more is 503, or cuts the stream. Default 64 MiB
	BodyTime    time.Duration // for a whole body that is held; longer is 408, or 504 of an answer. Default 1 min
	KeepAlive   time.Duration // between requests; longer closes. Default 60 s
	Answer      time.Duration // for an answer to begin once the request is sent; longer is 504. Default 10 min
	Dial        time.Duration // for resolving and connecting; longer is 504. Default 15 s
	Idle        time.Duration // without a byte either way; longer closes. Default 1 h
	Lifetime    time.Duration // of a connection; longer closes. Default 24 h
}

// descriptorsKept are for what is not a connection of the agent: its files,
// the gate, the policy DNS.
const descriptorsKept = 512

func (l Limits) withDefaults() (Limits, error) {
	for _, n := range []*int{&l.Connections, &l.Requests, &l.Inspected, &l.Streams, &l.Pooled, &l.ConnectHead, &l.RequestHead} {
		if *n < 0 {
			return l, errors.New("proxy: negative limit")
		}
	}
	for _, d := range []*time.Duration{&l.HeadTime, &l.PeekTime, &l.KeepAlive, &l.BodyTime, &l.Answer, &l.Dial, &l.Idle, &l.Lifetime} {
		if *d < 0 {
			return l, errors.New("proxy: negative limit")
		}
	}
	if l.Held < 0 {
		return l, errors.New("proxy: negative limit")
	}
	if l.Connections == 0 {
		var err error
		if l.Connections, err = affordable(); err != nil {
			return l, err
		}
	}
	def(&l.Requests, 1024)
	def(&l.Inspected, 4096)
	def(&l.Streams, 128)
	def(&l.Pooled, 256)
	def(&l.ConnectHead, 8<<10)
	def(&l.RequestHead, 32<<10)
	def(&l.HeadTime, 10*time.Second)
	def(&l.PeekTime, 300*time.Millisecond)
	def(&l.KeepAlive, time.Minute)
	def(&l.Held, 64<<20)
	def(&l.BodyTime, time.Minute)
	def(&l.Answer, 10*time.Minute)
	def(&l.Dial, 15*time.Second)
	def(&l.Idle, time.Hour)
	def(&l.Lifetime, 24*time.Hour)
	return l, nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// affordable is how many connections the limit of descriptors allows, two each.
func affordable() (int, error) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 0, fmt.Errorf("proxy: limit of descriptors: %w", err)
	}
	n := (int64(min(lim.Cur, 1<<20)) - descriptorsKept) / 2
	return int(max(16, min(n, 16384))), nil
}

// tcpDialer dials without a name in sight.
type tcpDialer struct{}

// Dial begins to connect before the runtime does. A host that answers at once, as
// those on this machine do, is connected by then: nothing has to wait for it and to
// be woken. The socket has no local address before, not even port 0: bind takes a
// port from the connections to all servers, connect only from those to the same.
func (tcpDialer) Dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if failed := c.Control(func(fd uintptr) { err = unix.Connect(int(fd), sockaddr(to)) }); failed != nil {
			return failed
		}
		if err == unix.EINPROGRESS || err == unix.EINTR {
			return nil
		}
		return os.NewSyscallError("connect", err)
	}}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
