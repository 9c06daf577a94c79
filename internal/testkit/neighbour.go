package testkit

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour is another host on a wire of its own: a network namespace at the
// other end of a veth pair. What listens there is not this host, so its
// addresses are nobody's own.
type Neighbour struct {
	work chan func()
	ns   *os.File
}

// Link is the name of the interface by which a neighbour is reached, and of the
// neighbour's own.
const Link = "wire0"

// WithNeighbour runs f in a subprocess with network and mount namespaces of its
// own, beside a neighbour that has the addresses given: the first is this
// side's, with its network, such as 203.0.113.1/24; the rest are the
// neighbour's. It needs root and says so where there is none.
func WithNeighbour(t *testing.T, f func(t *testing.T, n *Neighbour), own string, addresses ...string) {
	t.Helper()
	Require(t, Root())
	RunInSubprocess(t, func(t *testing.T) {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := raiseLoopback(nil); err != nil {
			t.Fatal(err)
		}
		n, err := newNeighbour(own, addresses)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.close)
		f(t, n)
	}, func(cmd *exec.Cmd) error {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
		return nil
	})
}

func newNeighbour(own string, addresses []string) (*Neighbour, error) {
	n := &Neighbour{work: make(chan func())}
	ready := make(chan error)
	go OnOwnThread(func() error { return n.live(ready) })
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("testkit: namespace: %w", err)
	}
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: Link, PeerNamespace: netlink.NsFd(int(n.ns.Fd()))}
	pair.Name = Link
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("testkit: veth pair: %w", err)
	}
	var err error
	n.Do(func() { err = raise(Link, addresses) })
	if err != nil {
		return nil, err
	}
	n.Do(func() { err = raise("lo", nil) })
	if err != nil {
		return nil, err
	}
	if err := raise(Link, []string{own}); err != nil {
		return nil, err
	}
	if err = awaitUp(Link); err == nil {
		n.Do(func() { err = awaitUp(Link) })
	}
	return n, err
}

// live is the thread of the neighbour. It never leaves its namespace.
func (n *Neighbour) live(ready chan<- error) error {
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		n.ns, err = os.Open("/proc/thread-self/ns/net")
	}
	ready <- err
	for f := range n.work {
		f()
	}
	return err
}

// Do runs f on the neighbour's thread: sockets and processes that it makes are
// the neighbour's.
func (n *Neighbour) Do(f func()) {
	var done sync.WaitGroup
	done.Add(1)
	n.work <- func() { defer done.Done(); f() }
	done.Wait()
}

func (n *Neighbour) close() { close(n.work); n.ns.Close() }

// Listen listens at the neighbour.
func (n *Neighbour) Listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	n.Do(func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// Start starts a program at the neighbour. It is killed at the end of the test.
func (n *Neighbour) Start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	var err error
	n.Do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
	})
}

// UseResolver makes server, an IP address, the only name server of this
// subprocess and of what it starts.
func UseResolver(t testing.TB, server string) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+server+"\noptions timeout:20 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	to, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err == nil {
		err = unix.Mount(conf, to, "", unix.MS_BIND, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(to, unix.MNT_DETACH) })
}

// awaitUp waits until an interface sends: of the end of a pair that came up first,
// the kernel drops what is sent until it has looked at it from a work queue.
func awaitUp(name string) error {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		l, err := netlink.LinkByName(name)
		if err == nil && l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("testkit: interface %s does not come up: %v", name, err)
		}
	}
}

// raise brings an interface up and gives it addresses with their networks.
func raise(name string, addresses []string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("testkit: interface %s: %w", name, err)
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return fmt.Errorf("testkit: address %s: %w", a, err)
		}
		addr.Flags = syscall.IFA_F_NODAD
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("testkit: adding %s to %s: %w", a, name, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("testkit: raising %s: %w", name, err)
	}
	return nil
}
