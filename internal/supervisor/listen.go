package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultProxyPort is the port of the contract; in a pod it is always this one.
const DefaultProxyPort = 3128

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// listenProxy opens the one listener of the sandbox on an address of this host.
// With port 0 it takes the default port, and any other when that one is taken.
// With a device it serves only what comes in there.
func listenProxy(port int, on netip.Addr, device string) (*net.TCPListener, netip.AddrPort, error) {
	try := []int{port}
	if port == 0 {
		try = []int{DefaultProxyPort, 0}
	}
	config := net.ListenConfig{Control: bindToDevice(device)}
	config.SetMultipathTCP(false)
	var err error
	for _, p := range try {
		var l net.Listener
		l, err = config.Listen(context.Background(), "tcp4", netip.AddrPortFrom(on, uint16(p)).String())
		if err == nil {
			return l.(*net.TCPListener), l.Addr().(*net.TCPAddr).AddrPort(), nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, netip.AddrPort{}, refused("leave --proxy-port out to take any free port, or end what listens there (ss -ltnp)",
			"proxy port %d on %v is taken", port, on)
	}
	return nil, netip.AddrPort{}, fmt.Errorf("listening on %v: %w", on, err)
}

func bindToDevice(device string) func(network, address string, c syscall.RawConn) error {
	if device == "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); cerr != nil {
			return cerr
		}
		return err
	}
}
