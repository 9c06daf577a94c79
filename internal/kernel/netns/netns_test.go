package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sallyport/internal/testkit"
)

func TestRanges(t *testing.T) {
	for _, tt := range []struct {
		slot        int
		prefix      string
		host, agent string
	}{
		{0, "10.200.0.0/24", "10.200.0.1", "10.200.0.2"}, // the contract's
		{1, "10.200.128.0/30", "10.200.128.1", "10.200.128.2"},
		{2, "10.200.128.4/30", "10.200.128.5", "10.200.128.6"},
		{65, "10.200.129.0/30", "10.200.129.1", "10.200.129.2"},
		{8192, "10.200.255.252/30", "10.200.255.253", "10.200.255.254"},
		{8193, "192.168.200.0/30", "192.168.200.1", "192.168.200.2"},
		{Slots() - 1, "169.254.200.252/30", "169.254.200.253", "169.254.200.254"},
	} {
		r := RangeOf(tt.slot)
		if r.Prefix.String() != tt.prefix || r.Host().String() != tt.host || r.Agent().String() != tt.agent {
			t.Errorf("RangeOf(%d) = %v %v %v, want %v %v %v", tt.slot, r.Prefix, r.Host(), r.Agent(), tt.prefix, tt.host, tt.agent)
		}
	}
}

func TestRangesAreApart(t *testing.T) {
	seen := map[netip.Addr]int{}
	for slot := range Slots() {
		r := RangeOf(slot)
		for _, a := range []netip.Addr{r.Host(), r.Agent()} {
			if other, is := seen[a]; is {
				t.Fatalf("%v belongs to the ranges %d and %d", a, other, slot)
			}
			if !r.Prefix.Contains(a) {
				t.Fatalf("%v is outside of %v", a, r.Prefix)
			}
			seen[a] = slot
		}
	}
}

func TestFree(t *testing.T) {
	for _, tt := range []struct {
		name string
		used []string
		want string // the first; empty: none
	}{
		{"nothing used", nil, "10.200.0.0/24"},
		{"default route", []string{"0.0.0.0/0"}, "10.200.0.0/24"},
		{"the two halves of a VPN", []string{"0.0.0.0/1", "128.0.0.0/1"}, "10.200.0.0/24"},
		{"one address", []string{"10.200.0.77/32"}, "10.200.128.0/30"},
		{"another sandbox", []string{"10.200.0.0/24", "10.200.128.0/30"}, "10.200.128.4/30"},
		{"a company's network", []string{"10.0.0.0/8"}, "192.168.200.0/30"},
		{"all private addresses", []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, "169.254.200.0/30"},
		{"everything", []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}, ""},
	} {
		var used []netip.Prefix
		for _, u := range tt.used {
			used = append(used, netip.MustParsePrefix(u))
		}
		got := ""
		for r := range free(used) {
			got = r.Prefix.String()
			break
		}
		if got != tt.want {
			t.Errorf("%s: first free range = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func connected(t *testing.T) (*Namespace, Link) {
	t.Helper()
	n, err := New(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	l, err := n.Connect()
	if err != nil {
		t.Fatal(err)
	}
	return n, l
}

// aWhile is how long a test waits for what takes a moment: the kernel takes
// namespaces down one after the other, those of other tests among them.
const aWhile = 2 * time.Minute

// dial connects from inside.
func dial(n *Namespace, address string) error {
	return n.Do(func() error {
		c, err := net.DialTimeout("tcp", address, aWhile)
		if err == nil {
			c.Close()
		}
		return err
	})
}

func TestConnect(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		before := interfaces(t)
		n, l := connected(t)
		if l.Prefix.String() != "10.200.0.0/24" || l.Name != "sallyport0" || len(l.Notes) != 0 {
			t.Errorf("Connect = %+v", l)
		}
		s, err := net.Listen("tcp4", "10.200.0.1:3128")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := dial(n, "10.200.0.1:3128"); err != nil {
			t.Errorf("from inside to the host's end: %v", err)
		}
		var in []string
		err = n.Do(func() error {
			in = interfaces(t)
			routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			if len(routes) != 2 || routes[0].Gw.String() != "10.200.0.1" {
				t.Errorf("routes inside = %v, want the default one to the host's end and the range's own", routes)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"lo 127.0.0.1/8 ::1/128", "eth0 10.200.0.2/24"}, in); d != "" {
			t.Errorf("interfaces inside, IPv6 on loopback only (-want +got):\n%s", d)
		}
		if d := cmp.Diff(append(before, "sallyport0 10.200.0.1/24"), interfaces(t)); d != "" {
			t.Errorf("interfaces of the host (-want +got):\n%s", d)
		}
		if b, err := os.ReadFile("/proc/sys/net/ipv4/conf/sallyport0/forwarding"); err != nil || string(b) != "0\n" {
			t.Errorf("forwarding of the host's end = %q, %v", b, err)
		}
	})
}

// interfaces lists the calling thread's interfaces with their addresses.
func interfaces(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		s := l.Attrs().Name
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			s += " " + a.IPNet.String()
		}
		out = append(out, s)
	}
	return out
}

// What the host forwards elsewhere, it does not forward from here: without any
// packet rule, a host that is a router takes nothing further.
func TestHostForwardsNothing(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		far, near := connected(t)
		s := make(chan net.Listener, 1)
		if err := far.Do(func() error {
			l, err := net.Listen("tcp4", near.Agent().String()+":80")
			s <- l
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer (<-s).Close()
		n, _ := connected(t)
		target := near.Agent().String() + ":80"
		// The control: from the host itself it can be reached.
		c, err := net.DialTimeout("tcp4", target, aWhile)
		if err != nil {
			t.Fatalf("control: %v", err)
		}
		c.Close()
		err = n.Do(func() error {
			c, err := net.DialTimeout("tcp4", target, 2*time.Second)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			t.Errorf("a connection to %s was forwarded", target)
		}
	})
}

func TestSecondSandboxTakesAnotherRange(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		seen := map[string]bool{}
		for range 5 {
			n, l := connected(t)
			if seen[l.Prefix.String()] {
				t.Errorf("range %v was given twice", l.Prefix)
			}
			seen[l.Prefix.String()] = true
			s, err := net.Listen("tcp4", l.Host().String()+":3128")
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := dial(n, s.Addr().String()); err != nil {
				t.Errorf("%v: %v", l.Prefix, err)
			}
		}
	}, "10.200.128.5")
}

// A route of the host that overlaps a range, such as a VPN's, is never hidden by
// the pair's: whatever its table and type, another range is taken.
func TestRoutesAreNotHidden(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		vpn := netlink.NewVeth(netlink.LinkAttrs{Name: "vpn0"})
		vpn.PeerName = "vpn1"
		if err := netlink.LinkAdd(vpn); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(vpn); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name, dst   string
			table, kind int
			want        string
		}{
			{"a part of the range", "10.200.0.64/26", unix.RT_TABLE_MAIN, unix.RTN_UNICAST, "10.200.128.0/30"},
			{"one host in it", "10.200.0.9/32", unix.RT_TABLE_MAIN, unix.RTN_UNICAST, "10.200.128.0/30"},
			{"more than the range", "10.200.0.0/16", unix.RT_TABLE_MAIN, unix.RTN_UNICAST, "192.168.200.0/30"},
			{"another table", "10.200.0.0/17", 51820, unix.RTN_UNICAST, "10.200.128.0/30"},
			{"a hole", "10.0.0.0/8", unix.RT_TABLE_MAIN, unix.RTN_BLACKHOLE, "192.168.200.0/30"},
		} {
			dst := netip.MustParsePrefix(tt.dst)
			r := &netlink.Route{Table: tt.table, Type: tt.kind, Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), 32)}}
			if tt.kind == unix.RTN_UNICAST {
				r.LinkIndex, r.Scope = vpn.Attrs().Index, netlink.SCOPE_LINK
			}
			if err := netlink.RouteAdd(r); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			n, err := New(0)
			if err != nil {
				t.Fatal(err)
			}
			l, err := n.Connect()
			if err != nil || l.Prefix.String() != tt.want {
				t.Errorf("%s, %s: Connect = %v, %v, want %s", tt.name, tt.dst, l.Prefix, err, tt.want)
			}
			if tt.table == unix.RT_TABLE_MAIN && tt.kind == unix.RTN_UNICAST {
				to, err := netlink.RouteGet(dst.Addr().AsSlice())
				if err != nil || len(to) != 1 || to[0].LinkIndex != vpn.Attrs().Index {
					t.Errorf("%s: %v goes to %v, %v, want %s still", tt.name, dst.Addr(), to, err, vpn.Name)
				}
			}
			if err := l.Remove(); err != nil {
				t.Error(err)
			}
			n.Close()
			if err := netlink.RouteDel(r); err != nil {
				t.Error(err)
			}
		}
	})
}

// Remove takes the pair down at once, and once is enough.
func TestRemoveLink(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		before := interfaces(t)
		_, l := connected(t)
		for range 2 {
			if err := l.Remove(); err != nil {
				t.Error(err)
			}
			if d := cmp.Diff(before, interfaces(t)); d != "" {
				t.Errorf("left behind (-before +after):\n%s", d)
			}
		}
		if err := (Link{}).Remove(); err != nil {
			t.Errorf("Remove of no link: %v", err)
		}
	})
}

func TestEveryRangeTaken(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} {
			_, dst, _ := net.ParseCIDR(p)
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst}); err != nil {
				t.Fatal(err)
			}
		}
		n, err := New(0)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		before := interfaces(t)
		if _, err := n.Connect(); !errors.Is(err, ErrTaken) {
			t.Errorf("Connect = %v, want ErrTaken", err)
		}
		if d := cmp.Diff(before, interfaces(t)); d != "" {
			t.Errorf("left behind (-before +after):\n%s", d)
		}
	})
}

func TestNoCapability(t *testing.T) {
	testkit.Nobody(t, func(t *testing.T) {
		var e *StepError
		if _, err := New(1); !errors.As(err, &e) || !errors.Is(err, unix.EPERM) {
			t.Errorf("New = %v, want a StepError with EPERM", err)
		}
	})
}

// Threads of this process that never entered stay where they were, however many
// the runtime makes while others are inside.
func TestNoOtherThreadIsInside(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		own, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		n, err := New(3)
		if err != nil {
			t.Fatal(err)
		}
		in := make(chan string, 3)
		hold := make(chan struct{})
		for range 3 {
			if err := n.Go(func() {
				s, _ := os.Readlink("/proc/thread-self/ns/net")
				in <- s
				done := make(chan struct{})
				for range 8 {
					go func() { // from inside, the runtime makes threads
						time.Sleep(time.Millisecond)
						done <- struct{}{}
					}()
				}
				for range 8 {
					<-done
				}
				<-hold
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Go(func() {}); !errors.Is(err, ErrClosed) {
			t.Errorf("a fourth task: %v, want ErrClosed", err)
		}
		for range 3 {
			if s := <-in; s == own || s == "" {
				t.Errorf("a task ran in %q, the namespace of the process", s)
			}
		}
		if got := threadsOutside(t, own); got != 4 { // Do's, and the three
			t.Errorf("%d threads are in another namespace, want 4", got)
		}
		close(hold)
		n.Close()
		if err := n.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
			t.Errorf("Do after Close = %v", err)
		}
		for end := time.Now().Add(aWhile); threadsOutside(t, own) != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("threads stay inside after Close")
			}
		}
	})
}

func threadsOutside(t *testing.T, own string) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if s, err := os.Readlink(l); err == nil && s != own {
			n++
		}
	}
	return n
}

// A process that is killed leaves no interface, address or namespace.
func TestKilledOwnerLeavesNothing(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		before := interfaces(t)
		c := startOwner(t, "alone")
		if with := interfaces(t); len(with) != len(before)+1 {
			t.Fatalf("control: interfaces %v", with)
		}
		if left, err := Leftovers(); err != nil || len(left) != 0 {
			t.Errorf("Leftovers with a living owner = %+v, %v", left, err)
		}
		c.Process.Kill()
		c.Wait()
		for end := time.Now().Add(aWhile); len(interfaces(t)) != len(before); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("left behind: %v", interfaces(t))
			}
		}
	})
}

// ownerVar makes this test binary one that owns a pair until it is killed.
const ownerVar = "NETNS_TEST_OWNER"

func TestMain(m *testing.M) {
	if how := os.Getenv(ownerVar); how != "" {
		beOwner(how)
	}
	os.Exit(m.Run())
}

func beOwner(how string) {
	n, err := New(0)
	if err == nil {
		_, err = n.Connect()
	}
	if err == nil && how == "with a process" {
		err = n.Do(func() error { return exec.Command("sleep", "1000").Start() })
	}
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("ready\n")
	time.Sleep(time.Hour) // not a select without cases, which the runtime takes for a deadlock
}

func startOwner(t *testing.T, how string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), ownerVar+"="+how)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "ready\n" {
		t.Fatalf("the owner said %q, %v", b, err)
	}
	return c
}

// What lives on in the namespace of a killed owner is found, ended, and gone.
func TestLeftovers(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		before := interfaces(t)
		c := startOwner(t, "with a process")
		living := startOwner(t, "alone")
		defer func() { living.Process.Kill(); living.Wait() }()
		c.Process.Kill()
		c.Wait()
		left, err := Leftovers()
		if err != nil || len(left) != 1 || left[0].Owner != c.Process.Pid || len(left[0].PIDs) != 1 {
			t.Fatalf("Leftovers = %+v, %v; want one of %d with one process", left, err, c.Process.Pid)
		}
		sleeper := left[0].PIDs[0]
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", sleeper)); string(b) != "sleep\n" {
			t.Errorf("process %d is %q", sleeper, b)
		}
		if err := Remove(left[0]); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(aWhile); ; time.Sleep(time.Millisecond) {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", sleeper))
			if len(b) == 0 || strings.Contains(string(b), ") Z ") { // whoever is its parent now may not care
				break
			}
			if time.Now().After(end) {
				t.Fatalf("process %d lives on", sleeper)
			}
		}
		for end := time.Now().Add(aWhile); len(interfaces(t)) != len(before)+1; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("interfaces %v, want those before and the living owner's", interfaces(t))
			}
		}
		if left, err := Leftovers(); err != nil || len(left) != 0 {
			t.Errorf("Leftovers after Remove = %+v, %v", left, err)
		}
		if err := Remove(Leftover{Name: "sallyport1", Owner: living.Process.Pid}); err != nil || len(interfaces(t)) != len(before)+1 {
			t.Errorf("Remove of a living owner's pair: %v, interfaces %v", err, interfaces(t))
		}
	})
}

func TestAlias(t *testing.T) {
	o := owner{42, 123456, 4026531836}
	if got, ok := parseAlias(o.alias()); !ok || got != o {
		t.Errorf("parseAlias(%q) = %+v, %v", o.alias(), got, ok)
	}
	for _, s := range []string{"", "sallyport", "sallyport pid=0 start=1 pidns=1", o.alias() + " ", strings.ToUpper(o.alias()), "x" + o.alias()} {
		if got, ok := parseAlias(s); ok {
			t.Errorf("parseAlias(%q) = %+v", s, got)
		}
	}
	me, ok := parseAlias(ownAlias())
	if alive, known := me.alive(); !ok || !alive || !known || me.pid != os.Getpid() {
		t.Errorf("this process is %+v, %v: alive %v, known %v", me, ok, alive, known)
	}
	me.start++
	if alive, known := me.alive(); alive || !known {
		t.Error("a process with another start counts as alive")
	}
	me.space++
	if _, known := me.alive(); known {
		t.Error("a process of another PID namespace counts as known")
	}
}
