package supervisor

import (
	"io"
	"net"
	"net/netip"
	"sync"

	"sallyport/internal/policy"
)

// publisher opens ports of servers in a network namespace to the host's own
// programs, on the same loopback address and nowhere else. Where the agent shares the host's
// network, its servers listen there themselves.
type publisher struct {
	mu    sync.Mutex
	ports map[netip.AddrPort]*net.TCPListener
	ended bool
	wg    sync.WaitGroup
}

// listening is told of a server inside.
func (s *sandbox) listening(a netip.AddrPort, inode uint64) {
	s.servers.listening(a, inode)
	if s.mode == policy.Namespace && s.published(a.Port()) {
		if err := s.publisher.open(a, s.space); err != nil {
			s.note("port %d is not published: %v", a.Port(), err)
		}
	}
}

// open relays connections to an address of the host to the same address inside.
// One that is open already stays so.
func (p *publisher) open(a netip.AddrPort, in *netspace) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ports[a] != nil || p.ended {
		return nil
	}
	l, err := listenOnHost(a)
	if err != nil {
		return err
	}
	if p.ports == nil {
		p.ports = map[netip.AddrPort]*net.TCPListener{}
	}
	p.ports[a] = l
	p.wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go relay(c, a, in)
		}
	})
	return nil
}

// listenOnHost listens in the host's network. The gate's thread, which asks, is
// in another; a goroutine that is not locked never runs there.
func listenOnHost(a netip.AddrPort) (l *net.TCPListener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
	}()
	<-done
	return l, err
}

// relay joins a connection of the host with a new one inside; it ends with the
// server, which ends with the sandbox.
func relay(c *net.TCPConn, a netip.AddrPort, in *netspace) {
	defer c.Close()
	d, err := in.dial(a, patience)
	if err != nil {
		return
	}
	defer d.Close()
	up := make(chan struct{})
	go func() {
		defer close(up)
		io.Copy(d, c)
		d.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, d)
	c.Close()
	<-up
}

// close ends what was opened.
func (p *publisher) close() {
	p.mu.Lock()
	p.ended = true
	for _, l := range p.ports {
		l.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}
