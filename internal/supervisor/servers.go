package supervisor

import (
	"net/netip"
	"sync"

	"sallyport/internal/kernel/procfs"
)

// servers are the TCP servers that run inside the sandbox. Closing a socket is
// not a notified call, so an entry may outlive its server; whoever asks is told
// only of one that still listens with the very socket that was entered.
type servers struct {
	mu    sync.Mutex
	ports map[uint16]server
}

type server struct {
	addr  netip.AddrPort
	inode uint64
}

// listening enters a server.
func (s *servers) listening(a netip.AddrPort, inode uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports == nil {
		s.ports = map[uint16]server{}
	}
	s.ports[a.Port()] = server{a, inode}
}

// find returns where the sandbox's own server on port listens.
func (s *servers) find(port uint16) (netip.AddrPort, bool) {
	s.mu.Lock()
	v, is := s.ports[port]
	s.mu.Unlock()
	if !is {
		return netip.AddrPort{}, false
	}
	if inode, err := procfs.Listener(v.addr); err == nil && inode == v.inode {
		return v.addr, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[port] == v {
		delete(s.ports, port)
	}
	return netip.AddrPort{}, false
}
