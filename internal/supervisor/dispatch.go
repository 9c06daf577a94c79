package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
	"sallyport/internal/event"
	"sallyport/internal/policy"
)

// dnsPort is where name servers listen; every address on it is the policy DNS.
const dnsPort = 53

// route is what the gate asks about each TCP destination. The proxy's own
// address, name servers and, with capture, every address that could be reached
// at all lead to the proxy's listener; the ledger remembers which was meant.
func (s *sandbox) route(tid int, wanted netip.AddrPort) gate.Route {
	a := wanted.Addr()
	through := gate.Route{To: s.proxyAddr, Book: true}
	switch {
	case wanted == s.proxyAddr:
		return through
	case wanted.Port() == dnsPort && s.capture:
		return through
	case a.IsLoopback() || a.IsUnspecified():
		return s.local(wanted)
	case !s.capture:
		return gate.Route{Errno: unix.EACCES, Reason: "only the proxy at " + s.proxyAddr.String() + " can be reached (network_capture is off)"}
	}
	if err := s.reachable(a); err != nil {
		return gate.Route{Errno: unix.EACCES, Reason: err.Error()}
	}
	return s.native(tid, wanted, through)
}

// local routes to a loopback address: a server of the same sandbox, or nothing.
// Where nobody listens nothing was denied: a program that waits for its own
// server to come up makes no events.
func (s *sandbox) local(wanted netip.AddrPort) gate.Route {
	if to, is := s.servers.find(wanted, s.ownLoopback[1]); is {
		return gate.Route{To: to}
	}
	if s.mode == policy.Platform && s.servers.nobody(wanted, s.proxyAddr) {
		return gate.Route{Errno: unix.ECONNREFUSED}
	}
	return gate.Route{Errno: unix.ECONNREFUSED, Reason: "loopback services of the host are closed; a policy opens one under host_services"}
}

// serve accepts until the listener is closed, and waits for its connections.
func (s *sandbox) serve(ctx context.Context, l *net.TCPListener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	tidy := tidier{clean: giveBack}
	for {
		c, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil && isTemporary(err):
			// Out of something: the backlog holds the next ones meanwhile.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		case err != nil:
			return err
		}
		tidy.one()
		wg.Go(func() { s.carry(ctx, c) })
	}
}

// isTemporary says that an accept may succeed later. ENOSPC comes from the
// runtime's poller: the user's epoll watches are used up, which the agent can do.
func isTemporary(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EINTR)
}

// survives turns a panic, which is a bug of ours, into the end of one piece of
// work and a finding: do did not end, over cleans up behind it.
func (s *sandbox) survives(what string, do, over func()) {
	defer s.broke(what, over)
	do()
}

// broke is what survives defers.
func (s *sandbox) broke(what string, over func()) {
	if p := recover(); p != nil {
		over()
		s.emit(event.Finding(event.Found{Kind: "bug", Title: "a bug of sallyport ended " + what, Detail: fmt.Sprintf("panic: %v", p)}))
	}
}

// carry is dispatch that survives. Thousands of them wait at once, so their stacks
// have nothing above them that is not needed.
func (s *sandbox) carry(ctx context.Context, c *net.TCPConn) {
	defer s.broke("a connection", func() { c.Close() })
	s.dispatch(ctx, c)
}

// dispatch finds out who connected and what was wanted, and hands the
// connection to the reader for that. A connection that the gate has not booked
// comes from outside the sandbox and is closed.
func (s *sandbox) dispatch(ctx context.Context, c *net.TCPConn) {
	conn, err := s.ledger.Lookup(ctx, c.RemoteAddr().(*net.TCPAddr).AddrPort())
	if err != nil {
		s.stranger(c, err)
		c.Close()
		return
	}
	switch {
	case conn.Wanted == s.proxyAddr:
		s.proxy.ServeConn(ctx, c, conn)
	case conn.Wanted.Port() == dnsPort:
		s.dns.ServeTCP(ctx, c)
	default:
		name, _ := s.dns.Lookup(conn.Wanted.Addr())
		s.proxy.ServeCaptured(ctx, c, conn, name, conn.Wanted)
	}
}
