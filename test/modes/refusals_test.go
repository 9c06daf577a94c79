package modes

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
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
	{"firewall_in_the_way", root, policy.Namespace, "", "", dropInput, "a firewall of this host", `iifname "sallyport*"`},
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
			})
		})
	}
}

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
}

// dropInput is a host's firewall that lets nothing in but loopback.
func dropInput(t *testing.T) {
	c := &nftables.Conn{}
	drop := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "host"})
	chain := c.AddChain(&nftables.Chain{Name: "input", Table: table, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityFilter, Type: nftables.ChainTypeFilter, Policy: &drop})
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}})
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
