package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkPrefix begins the name of every interface that this package makes on the
// host; the number of the range follows.
const LinkPrefix = "sallyport"

// Inside is the name of the agent's end.
const Inside = "eth0"

// ErrTaken says that every range that a pair could have is in use on this host.
var ErrTaken = errors.New("netns: every address range for a veth pair is in use on this host")

// Link is a veth pair between the host and a namespace.
type Link struct {
	Range
	Name  string   // of the host's end
	Notes []string // what could not be set, a sentence each; none of it is a first wall
}

// Connect makes a veth pair from the caller's namespace into n, gives both ends
// their addresses, raises them and the loopback interface, and makes the host's
// end the default route inside. It takes the first range that the host has no
// use for and that no other pair has claimed. It needs CAP_NET_ADMIN. The error
// is [ErrTaken] or a *[StepError]; nothing of the pair is left then.
func (n *Namespace) Connect() (Link, error) {
	l, host, err := n.claim()
	if err != nil {
		return Link{}, err
	}
	err = l.raiseHost(host)
	if err == nil {
		err = n.Do(func() error { return raiseInside(&l) })
	}
	if err == nil {
		err = awaitUp(l.Name)
	}
	if err != nil {
		netlink.LinkDel(host)
		return Link{}, err
	}
	return l, nil
}

// Remove takes the pair down, if it is there. It needs CAP_NET_ADMIN.
func (l Link) Remove() error {
	if l.Name == "" {
		return nil
	}
	host, err := netlink.LinkByName(l.Name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(host)
	}
	return step("taking the veth pair down", err)
}

// Try makes a veth pair with both ends in n, to see whether it can be done.
func (n *Namespace) Try() error {
	return n.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "try0"
		pair := netlink.NewVeth(attrs)
		pair.PeerName = "try1"
		return step("making a veth pair", netlink.LinkAdd(pair))
	})
}

// claim makes the pair under the name of a free range. Of two that want the same
// range one gets the name; the other takes the next.
func (n *Namespace) claim() (Link, netlink.Link, error) {
	used, err := inUse()
	if err != nil {
		return Link{}, nil, step("listing the host's routes", err)
	}
	for r := range free(used) {
		l := Link{Range: r, Name: LinkPrefix + strconv.Itoa(r.Slot)}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = l.Name
		pair := netlink.NewVeth(attrs)
		pair.PeerName, pair.PeerNamespace = Inside, netlink.NsFd(n.fd)
		err := netlink.LinkAdd(pair)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		return l, pair, step("making a veth pair", err)
	}
	return Link{}, nil, ErrTaken
}

// inUse lists the destinations of the host's IPv4 routes in every table; its own
// addresses are among them.
func inUse() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		if p := netip.PrefixFrom(a, ones); p.IsValid() {
			out = append(out, p)
		}
	}
	return out, nil
}

// raiseHost makes the host's end ready. What the agent sends is for the
// supervisor's own sockets: nothing that comes in there is forwarded, whatever
// the host forwards elsewhere, and IPv6 is off.
func (l *Link) raiseHost(host netlink.Link) error {
	l.set("ipv6/conf/"+l.Name+"/disable_ipv6", "1", "IPv6 on the host's end of the veth pair")
	steps := []struct {
		name string
		do   func() error
	}{
		{"naming the owner of the veth pair", func() error { return netlink.LinkSetAlias(host, ownAlias()) }},
		{"giving the host's end its address", func() error { return netlink.AddrAdd(host, address(l.Host(), l.Prefix)) }},
		{"raising the host's end", func() error { return netlink.LinkSetUp(host) }},
	}
	for _, s := range steps {
		if err := step(s.name, s.do()); err != nil {
			return err
		}
	}
	l.set("ipv4/conf/"+l.Name+"/forwarding", "0", "forwarding from the veth pair")
	return nil
}

// raiseInside runs in the namespace. IPv6 is left to the loopback interface.
func raiseInside(l *Link) error {
	for _, name := range []string{"default", Inside} {
		l.set("ipv6/conf/"+name+"/disable_ipv6", "1", "IPv6 on the agent's end of the veth pair")
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return step("finding the loopback interface", err)
	}
	end, err := netlink.LinkByName(Inside)
	if err != nil {
		return step("finding the agent's end", err)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"raising the loopback interface", func() error { return netlink.LinkSetUp(lo) }},
		{"giving the agent's end its address", func() error { return netlink.AddrAdd(end, address(l.Agent(), l.Prefix)) }},
		{"raising the agent's end", func() error { return netlink.LinkSetUp(end) }},
		{"making the default route", func() error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: end.Attrs().Index, Gw: net.IP(l.Host().AsSlice())})
		}},
	}
	for _, s := range steps {
		if err := step(s.name, s.do()); err != nil {
			return err
		}
	}
	return awaitUp(Inside)
}

// upWithin is how long an interface may take until it sends, on a machine that is
// overloaded, too.
const upWithin = 10 * time.Second

// awaitUp waits until an interface really sends: one that was raised before its
// other end drops everything until the kernel's link watch has run, and a lost
// SYN costs a second. Asking for the one interface makes it run (rtnl_getlink
// since Linux 6.8); an older kernel takes a moment.
func awaitUp(name string) error {
	for end := time.Now().Add(upWithin); ; time.Sleep(time.Millisecond) {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return step("waiting for "+name, err)
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(end) {
			return step("waiting for "+name, unix.ETIMEDOUT)
		}
	}
}

// set turns something off by a file of /proc/sys/net, which shows the namespace
// of the thread that opens it. A kernel without the file has nothing to turn
// off. A container may mount it read-only: then the packet rules alone hold.
func (l *Link) set(file, value, what string) {
	err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		l.Notes = append(l.Notes, fmt.Sprintf("%s cannot be turned off: %v", what, err))
	}
}

func address(a netip.Addr, p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}}
}
