package modes

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sallyport/internal/confine"
	"sallyport/internal/kernel/netns"
	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

// refusals are hosts on which a mode cannot hold. Each is told in one sentence
// with a remedy, before anything of the agent runs, and leaves nothing.
var refusals = []struct {
	name  string
	by    who
	mode  policy.Mode
	text  string // the policy
	lacks string
	host  func(t *testing.T) // changes the test's network
	say   string
	hint  string
}{
	{"no_capability", nobody, policy.Namespace, "", "", nil, cannot, "--mode userns"},
	{"range_taken", root, policy.Namespace, "", "", takeEverything, "every address range", "10.200.0.0/24"},
	{"firewall_drops", root, policy.Namespace, "", "", dropInput, "a firewall of this host", `iifname "sallyport*"`},
	{"firewall_rejects", root, policy.Namespace, "", "", rejectInput, "a firewall of this host", "add it to the trusted zone"},
	{"nested_container", root, policy.Namespace, "", "unshare", nil, "this container does not let even root", "CAP_SYS_ADMIN"},
	{"nested_container_setns", root, policy.Namespace, "", "setns", nil, "this container does not let even root", "CAP_SYS_ADMIN"},
	{"no_nftables", root, policy.Namespace, "", "nftables", nil, "this kernel has no nftables", "nf_tables"},
	{"no_user_namespaces", root, policy.UserNS, "", "unshare", nil, "does not let a user make a user namespace", "user.max_user_namespaces"},
	{"no_user_namespaces_for_users", nobody, policy.UserNS, "", "unshare", nil, "does not let a user make a user namespace", "user.max_user_namespaces"},
	{"policy_and_flag_disagree", root, policy.Namespace, "version: 1\nnetwork_enforcement: platform\n", "", nil, "disagrees with the policy", "leave --mode out"},
	{"policy_and_flag_disagree_userns", root, policy.UserNS, "version: 1\nnetwork_enforcement: platform\n", "", nil, "disagrees with the policy", "leave --mode out"},
	{"policy_wants_what_the_flag_denies", root, policy.Platform, "version: 1\nnetwork_enforcement: namespace\n", "", nil, "disagrees with the policy", "leave --mode out"},
}

func TestRefusals(t *testing.T) {
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // some wait, and each has a network of its own
			testkit.Netns(t, func(t *testing.T) {
				if tt.host != nil {
					tt.host(t)
				}
				b := newBench(t)
				dir := b.workdir(t)
				before := links(t)
				out, status := b.try(t, tt.by, sandbox{Mode: tt.mode, Policy: tt.text, Lacks: tt.lacks, Workdir: dir, Command: []string{"touch", "started"}})
				if status != 125 || !strings.Contains(out, "refused: ") || !strings.Contains(out, tt.say) {
					t.Errorf("status = %d, want 125 and %q:\n%s", status, tt.say, out)
				}
				if !strings.Contains(out, "hint: ") || !strings.Contains(out, tt.hint) {
					t.Errorf("no remedy with %q:\n%s", tt.hint, out)
				}
				if n := strings.Count(out, "\n"); n != 2 {
					t.Errorf("%d lines, want a sentence and its remedy:\n%s", n, out)
				}
				if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
					t.Error("the agent was started")
				}
				gone(t, before)
				if tt.by == root && tt.mode == policy.Namespace && tt.text == "" {
					falls(t, b, tt.lacks, tt.say, tt.hint)
					gone(t, before)
				}
			})
		})
	}
}

// falls starts the same without a mode: it is platform mode, one line says what
// stood in the way of namespace mode and what would help, and nothing is left of
// the attempt while the agent runs.
func falls(t *testing.T, b *bench, lacks, say, hint string) {
	t.Helper()
	out, status := b.try(t, root, sandbox{Lacks: lacks, Notes: true, Command: []string{"cat", "/proc/self/net/dev"}})
	if status != 0 || strings.Contains(out, "sallyport0:") || strings.Contains(out, "eth0:") || !strings.Contains(out, "lo:") {
		t.Errorf("without a mode: status = %d, want an agent in the host's network, as it was:\n%s", status, out)
	}
	line := regexp.MustCompile("(?m)^note: platform mode: .*" + regexp.QuoteMeta(say) + ".*; .*" + regexp.QuoteMeta(hint))
	if !line.MatchString(out) || strings.Contains(out, "namespace mode: ") || strings.Contains(out, "--mode platform") {
		t.Errorf("no line matches %v:\n%s", line, out)
	}
}

// Where nobody names a mode, who has the privilege gets namespace mode, on hosts
// that it has to find its way on, and everybody else platform mode. One line
// says which and why.
func TestAutomatic(t *testing.T) {
	const strictest = `^note: namespace mode: it is the strictest that this host can hold; the agent is `
	for _, tt := range []struct {
		name string
		by   who
		text string
		host func(t *testing.T)
		note string
		in   bool // a namespace
	}{
		{"root", root, "", nil, strictest + `10\.200\.0\.2 behind sallyport0`, true},
		{"two_capabilities", lent, "", nil, strictest + `10\.200\.0\.2 behind sallyport0`, true},
		{"nobody", nobody, "", nil, `^note: platform mode: namespace mode ` + cannot + `, .*; start it with sudo, or use --mode userns$`, false},
		{"docker", root, "", dropForward, strictest, true},
		{"vpn", root, "", routeTheRange, strictest + `192\.168\.200\.2 `, true},
		{"policy_says_platform", root, "version: 1\nnetwork_enforcement: platform\nfilesystem_policy: {read_only: [/usr, /bin, /lib, /lib64, /proc]}\n", nil, `^note: started as root`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // some wait, and each has a network of its own
			testkit.Netns(t, func(t *testing.T) {
				if tt.host != nil {
					tt.host(t)
				}
				b := newBench(t)
				before := links(t)
				out, status := b.try(t, tt.by, sandbox{Policy: tt.text, Notes: true, Command: []string{"cat", "/proc/self/net/dev"}})
				if in := strings.Contains(out, "eth0:"); status != 0 || in != tt.in {
					t.Errorf("status = %d, in a namespace: %v, want %v:\n%s", status, in, tt.in, out)
				}
				if !regexp.MustCompile("(?m)" + tt.note).MatchString(out) {
					t.Errorf("no line matches %v:\n%s", tt.note, out)
				}
				if n := len(regexp.MustCompile("(?m)^note: (platform|namespace|userns) mode: ").FindAllString(out, -1)); n > 1 || n == 0 && tt.text == "" {
					t.Errorf("%d lines about the mode, want one:\n%s", n, out)
				}
				gone(t, before)
			})
		})
	}
}

// routeTheRange is a VPN that has the contract's range and more.
func routeTheRange(t *testing.T) { route(t, "10.200.0.0/16") }

// A policy that asks for namespace mode gets it, and by a user namespace where
// the command line says so.
func TestPolicyChooses(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		const text = "version: 1\nnetwork_enforcement: namespace\nfilesystem_policy: {include_workdir: true, read_only: [/usr, /bin, /lib, /lib64, /proc, /sys]}\n"
		ls := []string{"ls", "/sys/class/net"}
		cat := []string{"cat", "/proc/self/net/dev"}
		out, status := b.try(t, root, sandbox{Policy: text, Command: cat})
		if status != 0 || !strings.Contains(out, "eth0:") {
			t.Errorf("namespace: status = %d: %s", status, out)
		}
		out, status = b.try(t, nobody, sandbox{Policy: text, Command: ls})
		if status != 125 || !strings.Contains(out, cannot) {
			t.Errorf("namespace without privilege: status = %d: %s", status, out)
		}
		out, status = b.try(t, nobody, sandbox{Policy: text, Mode: policy.UserNS, Command: cat})
		if status != 0 || strings.Contains(out, "eth0:") || !strings.Contains(out, "lo:") {
			t.Errorf("userns: status = %d: %s", status, out)
		}
	})
}

func takeEverything(t *testing.T) {
	route(t, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
}

func route(t *testing.T, prefixes ...string) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range prefixes {
		_, dst, _ := net.ParseCIDR(p)
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst}); err != nil {
			t.Fatal(err)
		}
	}
}

// dropInput is a host's firewall that lets nothing in but loopback, as ufw's.
func dropInput(t *testing.T) { firewall(t, nftables.ChainHookInput, nil) }

// rejectInput answers the rest, as firewalld does.
func rejectInput(t *testing.T) {
	firewall(t, nftables.ChainHookInput, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED})
}

// dropForward is what Docker makes of a host: it forwards nothing but its own.
func dropForward(t *testing.T) { firewall(t, nftables.ChainHookForward, nil) }

// firewall is a chain that accepts what comes from loopback and drops the rest,
// or does something else with it.
func firewall(t *testing.T, hook *nftables.ChainHook, rest expr.Any) {
	c := &nftables.Conn{}
	drop := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "host"})
	chain := c.AddChain(&nftables.Chain{Name: "host", Table: table, Hooknum: hook,
		Priority: nftables.ChainPriorityFilter, Type: nftables.ChainTypeFilter, Policy: &drop})
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}})
	if rest != nil {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{rest}})
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func links(t *testing.T) []string {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range all {
		out = append(out, l.Attrs().Name)
	}
	return out
}

// What the packet rules refuse becomes an event with the process, where its
// socket still lives.
func TestBypassIsAnEvent(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		o := newOutside(t, b)
		events := filepath.Join(b.dir, "events.jsonl")
		out, _ := b.try(t, root, sandbox{Mode: policy.Namespace, Policy: o.policy(b), Off: everyWall &^ confine.WallPackets, Events: events,
			Command: []string{b.exe, "probe", "udp", far + ":9000", "token"}})
		text, err := os.ReadFile(events)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for line := range strings.Lines(string(text)) {
			var e struct {
				Dst struct {
					IP   string `json:"ip"`
					Port int    `json:"port"`
				} `json:"dst_endpoint"`
				StatusCode string `json:"status_code"`
			}
			if json.Unmarshal([]byte(line), &e) == nil && e.Dst.IP == far && e.Dst.Port == 9000 {
				return
			}
		}
		t.Errorf("no event of the refused packet: %s\n%s", out, text)
	}, far)
}

// gone waits until the host's interfaces are what they were: the kernel takes a
// namespace down behind its last process.
func gone(t *testing.T, before []string) {
	t.Helper()
	if left := await(func() bool { return cmp.Equal(before, links(t)) }); !left {
		t.Errorf("left behind: %v, before: %v", links(t), before)
	}
	if left, err := netns.Leftovers(); err != nil || len(left) != 0 {
		t.Errorf("Leftovers = %+v, %v", left, err)
	}
}
