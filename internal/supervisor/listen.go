package supervisor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// DefaultProxyPort is the port of the contract; in a pod it is always this one.
const DefaultProxyPort = 3128

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// listenProxy opens the one listener of the sandbox. With port 0 it takes the
// default port, and any other when that one is taken.
func listenProxy(port int) (*net.TCPListener, netip.AddrPort, error) {
	try := []int{port}
	if port == 0 {
		try = []int{DefaultProxyPort, 0}
	}
	var err error
	for _, p := range try {
		var l *net.TCPListener
		l, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback, uint16(p))))
		if err == nil {
			return l, l.Addr().(*net.TCPAddr).AddrPort(), nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, netip.AddrPort{}, refused("leave --proxy-port out to take any free port, or end what listens there (ss -ltnp)",
			"proxy port %d on 127.0.0.1 is taken", port)
	}
	return nil, netip.AddrPort{}, fmt.Errorf("listening on 127.0.0.1: %w", err)
}
