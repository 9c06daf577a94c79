package supervisor

import (
	"errors"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/procfs"
	"sallyport/internal/kernel/sockdiag"
)

// servers are the TCP servers that run inside the sandbox. Closing a socket is
// not a notified call, so an entry may outlive its server; whoever asks is told
// only of one that still listens with a socket that was entered.
type servers struct {
	member func() int // a process of their network namespace
	mu     sync.Mutex
	ports  map[uint16][]server
	diag   sockdiag.Client // asks in the namespace of the thread that asks first: the gate's
}

type server struct {
	addr  netip.AddrPort
	inode uint64
}

// maxServers bounds the entries of one port; the oldest one goes. Several at a
// time are servers of both families, and those that share a port by SO_REUSEPORT.
const maxServers = 64

// listening enters a server.
func (s *servers) listening(a netip.AddrPort, inode uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports == nil {
		s.ports = map[uint16][]server{}
	}
	all := append(s.ports[a.Port()], server{a, inode})
	s.ports[a.Port()] = all[max(0, len(all)-maxServers):]
}

// find returns where the sandbox's own server listens that a connection to
// wanted means: the one at that very address, else one of the same family, else
// one of the other. v6 is where servers of IPv6 sockets are.
func (s *servers) find(wanted netip.AddrPort, v6 netip.Addr) (netip.AddrPort, bool) {
	s.mu.Lock()
	all := slices.Clone(s.ports[wanted.Port()])
	s.mu.Unlock()
	rank := func(x server) int {
		six := x.addr.Addr() == v6 || x.addr.Addr().Is6()
		switch {
		case x.addr == wanted:
			return 0
		case six == wanted.Addr().Is6():
			return 1
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b server) int { return rank(a) - rank(b) })
	for i, x := range all {
		if i > 0 && all[i-1].addr == x.addr {
			continue // one question an address
		}
		inode, err := s.listener(x.addr)
		if err == nil && slices.Contains(all, server{x.addr, inode}) {
			return x.addr, true
		}
		s.gone(x.addr)
	}
	return netip.AddrPort{}, false
}

// listener asks the kernel, the quick way where there is one: one that lacks it
// says the same as where nobody listens.
func (s *servers) listener(a netip.AddrPort) (uint64, error) {
	if inode, err := s.diag.Listener(a); err == nil {
		return inode, nil
	}
	return procfs.Listener(s.member(), a)
}

// nobody says that no socket of the host would take a connection to a loopback
// address. Where the kernel cannot be asked it is not said: one that can knows
// the socket that listens on known.
func (s *servers) nobody(wanted, known netip.AddrPort) bool {
	a := wanted.Addr()
	switch {
	case a == netip.IPv4Unspecified():
		a = loopback
	case a == netip.IPv6Unspecified():
		a = netip.IPv6Loopback()
	}
	if _, err := s.diag.Listener(known); err != nil {
		return false
	}
	_, err := s.diag.Listener(netip.AddrPortFrom(a, wanted.Port()))
	return errors.Is(err, unix.ENOENT)
}

// gone forgets what was entered for an address.
func (s *servers) gone(a netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.DeleteFunc(s.ports[a.Port()], func(x server) bool { return x.addr == a })
	if len(left) == 0 {
		delete(s.ports, a.Port())
		return
	}
	s.ports[a.Port()] = left
}
