package testkit

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Netns runs f in a subprocess with a network namespace of its own, in which
// the loopback interface is up and carries the addresses given beside its own,
// so that a server can listen on 93.184.216.34 without a network. It needs root
// and says so where there is none.
func Netns(t *testing.T, f func(t *testing.T), addresses ...string) {
	t.Helper()
	Require(t, Root())
	RunInSubprocess(t, func(t *testing.T) {
		if err := raiseLoopback(addresses); err != nil {
			t.Fatal(err)
		}
		f(t)
	}, func(cmd *exec.Cmd) error {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
		return nil
	})
}

func raiseLoopback(addresses []string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("testkit: loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("testkit: raising lo: %w", err)
	}
	for _, a := range addresses {
		bits := "/32"
		if strings.Contains(a, ":") {
			bits = "/128"
		}
		addr, err := netlink.ParseAddr(a + bits)
		if err != nil {
			return fmt.Errorf("testkit: address %s: %w", a, err)
		}
		addr.Flags = syscall.IFA_F_NODAD
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("testkit: adding %s to lo: %w", a, err)
		}
		if err := awaitRoute(a); err != nil {
			return err
		}
	}
	return nil
}

// patience is how long the kernel may take over what it does by itself.
const patience = time.Minute

// awaitRoute waits until packets to a stay here: the kernel puts the local route
// of an IPv6 address into the table from a work queue (addrconf_dad_work), after
// the one that leads to the interface.
func awaitRoute(a string) error {
	end := time.Now().Add(patience)
	for {
		routes, err := netlink.RouteGet(net.ParseIP(a))
		if err == nil && len(routes) > 0 && routes[0].Type == syscall.RTN_LOCAL {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("testkit: %s on lo: routes %v, %w", a, routes, err)
		}
		time.Sleep(time.Millisecond)
	}
}
