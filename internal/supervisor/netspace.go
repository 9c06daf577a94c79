package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine"
	"sallyport/internal/kernel/caps"
	"sallyport/internal/kernel/netns"
	"sallyport/internal/kernel/nft"
	"sallyport/internal/policy"
)

// netspace is the network namespace that the supervisor makes for the agent. A nil
// one stands for the namespace of the host.
type netspace struct {
	ns       *netns.Namespace
	link     netns.Link
	log      *nft.Listener // nil where the kernel cannot log
	patience time.Duration // how long the proxy may take to answer
}

// The threads that wait in the namespace: one forks the guard and stays with it,
// one answers the agent's calls, and one takes its place if a call holds it up.
const threadsInside = 3

const userNSHint = "use platform mode, or let users make namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0"

const elsewhere = "start it with sudo, or use --mode userns"

// isolate makes the agent's network namespace while the supervisor still may, and
// settles the mode if nobody has named one.
func (s *sandbox) isolate() error {
	why := ""
	switch s.mode {
	case policy.Namespace:
		if err := s.makeNetwork(patience); err != nil {
			return err
		}
	case policy.ModeUnset:
		c := s.strictest()
		if s.mode = c.Mode; c.Mode != policy.Namespace {
			s.note("%v", c)
			return nil
		}
		why = c.Why + "; "
	default:
		return nil
	}
	l := s.space.link
	for _, n := range l.Notes {
		s.note("second wall missing: %s", n)
	}
	s.note("namespace mode: %sthe agent is %v behind %s, and the proxy %v is its only way out", why, l.Agent(), l.Name, s.proxyAddr)
	return nil
}

// makeNetwork makes a network namespace with a way to the proxy, closes it, and
// proves that the proxy can be reached from there and that nothing else can. Of a
// network that cannot be had, what is there is left to removeNetwork.
func (s *sandbox) makeNetwork(wait time.Duration) error {
	if err := mayIsolate(); err != nil {
		return err
	}
	ns, err := netns.New(threadsInside)
	if err != nil {
		return cannotIsolate(err)
	}
	s.space = &netspace{ns: ns, patience: wait}
	if s.space.link, err = ns.Connect(); err != nil {
		return cannotIsolate(err)
	}
	l := s.space.link
	if s.listener, s.proxyAddr, err = listenProxy(s.o.ProxyPort, l.Host(), l.Name); err != nil {
		return err
	}
	// Once without our rules, which would keep a firewall's word of refusal out.
	steps := []func() error{s.proveReach, s.packetRules, s.proveReach, s.proveClosed, s.listenToRefusals}
	if s.o.Off&confine.WallPackets != 0 {
		steps = []func() error{s.proveReach}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return cannotIsolate(err)
		}
	}
	return nil
}

// removeNetwork takes down what makeNetwork has made, and does not wait for the
// kernel to find that nobody is left in it.
func (s *sandbox) removeNetwork() {
	if s.listener != nil {
		s.listener.Close()
	}
	if s.space != nil {
		s.space.link.Remove()
	}
	s.space.close()
	s.listener, s.proxyAddr, s.space = nil, netip.AddrPort{}, nil
}

// mayIsolate asks for the two capabilities before anything is made.
func mayIsolate() error {
	if MustExecAsAgent() {
		return refused("build it with CGO_ENABLED=0"+orPlatform, "namespace mode needs a sallyport that was built without cgo")
	}
	have, err := caps.Read()
	if err != nil {
		return refused("", "reading capabilities: %w", err)
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	if lack := need &^ have.Effective; lack != 0 {
		return refused(elsewhere+orPlatform, "namespace mode needs CAP_SYS_ADMIN and CAP_NET_ADMIN, and this process (uid %d) lacks %s",
			os.Geteuid(), strings.Join(caps.Names(lack), " and "))
	}
	return nil
}

func (s *sandbox) packetRules() error {
	rules := nft.Rules(nft.Options{Proxy: s.proxyAddr, Device: netns.Inside})
	return s.space.ns.Do(func() error { return nft.Install(rules) })
}

// listenToRefusals binds the log, which takes a capability; reading it does not.
func (s *sandbox) listenToRefusals() error {
	return s.space.ns.Do(func() (err error) {
		s.space.log, err = nft.Listen()
		return err
	})
}

// orPlatform ends every remedy: there is a mode that needs nothing of this.
const orPlatform = ", or use --mode platform"

// hindrances puts what a host refuses into words.
var hindrances = []struct {
	err         error
	say, remedy string
}{
	{netns.ErrTaken, "every address range for the veth pair is in use on this host", "free 10.200.0.0/24 (ip route)"},
	{nft.ErrNone, "this kernel has no nftables, so namespace mode cannot hold", "load the module nf_tables"},
	{unix.EPERM, "this container does not let even root make a network namespace", "give the container CAP_SYS_ADMIN and CAP_NET_ADMIN and a seccomp profile that allows unshare and setns"},
	{unix.EACCES, "a security module forbids network namespaces", "see the audit log"},
	{unix.EOPNOTSUPP, "this kernel has no veth pairs", "load the module veth"},
	{unix.ENOSPC, "the limit of network namespaces is reached", "raise user.max_net_namespaces, or end other sandboxes"},
	{unix.EINVAL, "this kernel has no network namespaces", "build it with CONFIG_NET_NS"},
	{fs.ErrNotExist, "/proc is not mounted", "mount it"},
}

func cannotIsolate(err error) error {
	var known *ExitError
	if errors.As(err, &known) {
		return err
	}
	for _, h := range hindrances {
		if errors.Is(err, h.err) {
			return refused(h.remedy+orPlatform, "%s: %w", h.say, err)
		}
	}
	return refused("sallyport doctor says what this host offers"+orPlatform, "making the agent's network: %w", err)
}

// patience is how long the proxy may take to answer over the veth pair. It takes
// microseconds; a firewall that drops lets the time run out.
const patience = 5 * time.Second

// overdue is how long a connection is looked for that has run out of time.
const overdue = 100 * time.Millisecond

// proveReach connects from inside to the proxy, which must work. A connection that
// arrives has been made: where it was not noticed in time, this process stood still
// and no firewall stands between.
func (s *sandbox) proveReach() error {
	l, wait := s.space.link, s.space.patience
	failed := s.space.reach(s.proxyAddr)
	if failed != nil {
		wait = overdue
	}
	s.listener.SetDeadline(time.Now().Add(wait))
	c, err := s.listener.AcceptTCP()
	s.listener.SetDeadline(time.Time{})
	switch {
	case err == nil && (failed == nil || c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() == l.Agent()):
		return c.Close()
	case err == nil:
		c.Close()
		fallthrough
	case failed != nil:
		return refused(fmt.Sprintf("let the host's firewall accept TCP from interface %s* (nft: iifname %q accept; firewalld: add it to the trusted zone)", netns.LinkPrefix, netns.LinkPrefix+"*")+orPlatform,
			"a firewall of this host stands between %v and the proxy on %v: %w", l.Agent(), s.proxyAddr, failed)
	}
	return refused("", "the proxy's listener: %w", err)
}

// proveClosed connects from inside to another server on the proxy's address,
// which must not work.
func (s *sandbox) proveClosed() error {
	l := s.space.link
	other, at, err := listenProxy(0, l.Host(), l.Name)
	if err != nil {
		return err
	}
	defer other.Close()
	if err := s.space.reach(at); err == nil {
		return refused("tell the maintainers"+orPlatform, "bug: the packet rules let a connection to %v through", at)
	}
	return nil
}

// reach connects to a from inside, and closes the connection.
func (in *netspace) reach(a netip.AddrPort) error {
	c, err := in.dial(a, in.patience)
	if err == nil {
		c.Close()
	}
	return err
}

// dial makes a connection whose near end is in the namespace.
func (in *netspace) dial(a netip.AddrPort, wait time.Duration) (c net.Conn, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	// A socket is made by the goroutine that dials an address, so on the thread
	// that Do runs on; a name would be resolved elsewhere.
	d := net.Dialer{}
	d.SetMultipathTCP(false)
	err = in.ns.Do(func() error {
		var err error
		c, err = d.DialContext(ctx, "tcp", a.String())
		return err
	})
	return c, err
}

// thread is where the agent and its sockets are made; nil for anywhere.
func (in *netspace) thread() func(func()) error {
	if in == nil {
		return nil
	}
	return in.ns.Go
}

// watch tells of refused packets until finish or close.
func (in *netspace) watch(refused func(nft.Packet)) {
	if in == nil || in.log == nil {
		return
	}
	for {
		packets, err := in.log.Next()
		if err != nil {
			return
		}
		for _, p := range packets {
			refused(p)
		}
	}
}

// finish lets watch tell what has been refused so far, and end.
func (in *netspace) finish() {
	if in != nil && in.log != nil {
		in.log.Finish()
	}
}

// close lets go of the namespace: it ends with the last process in it.
func (in *netspace) close() {
	if in == nil {
		return
	}
	if in.log != nil {
		in.log.Close()
	}
	in.ns.Close()
}
