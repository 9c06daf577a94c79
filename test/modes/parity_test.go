package modes

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	"sallyport/internal/confine"
	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

var update = flag.Bool("update", false, "write the tables into docs/modes.md")

var modes = []policy.Mode{policy.Platform, policy.Namespace, policy.UserNS}

const everyWall = confine.WallFiles | confine.WallPorts | confine.WallScopes | confine.WallFilter | confine.WallGate | confine.WallPackets

// held is what stops an attack in one mode: the first wall, and the one that
// stops it when every other one is left out.
type held struct {
	first, last string
	keep        confine.Walls // what is not left out to show the last one
}

// attacks are the rows of the design's parity claim.
var attacks = []struct {
	name  string
	what  string
	args  func(o *outside, token string) []string
	ready func(t *testing.T, o *outside, token string)
	saw   func(o *outside, token, said string) bool // whether it got through
	by    map[policy.Mode]held
}{
	{"tcp_around_the_proxy", "TCP bypass of the proxy",
		func(o *outside, token string) []string { return []string{"tcp", far + ":80", token} }, nil, heard,
		map[policy.Mode]held{
			policy.Platform:  {"gate: the connection is made to the proxy", "Landlock: no TCP port is granted", confine.WallPorts},
			policy.Namespace: {"gate, as in platform mode", "nftables: reset", confine.WallPackets},
			policy.UserNS:    {"gate, as in platform mode", "the network namespace has no way anywhere", 0},
		}},
	{"udp_exfiltration", "UDP exfiltration",
		func(o *outside, token string) []string { return []string{"udp", far + ":9000", token} }, nil, heard,
		map[policy.Mode]held{
			policy.Platform:  {"gate: no UDP socket is handed out", "seccomp: no UDP socket can be made", confine.WallFilter},
			policy.Namespace: {"gate, as in platform mode", "nftables: rejected", confine.WallPackets},
			policy.UserNS:    {"gate, as in platform mode", "the network namespace has no way anywhere", 0},
		}},
	{"dns_tunnel", "DNS tunnelling",
		func(o *outside, token string) []string { return []string{"udp", far + ":53", token} }, nil, heard,
		map[policy.Mode]held{
			policy.Platform:  {"policy DNS: the query ends in the supervisor", "seccomp: no UDP socket can be made", confine.WallFilter},
			policy.Namespace: {"policy DNS, as in platform mode", "nftables: no rule lets UDP out", confine.WallPackets},
			policy.UserNS:    {"policy DNS, as in platform mode", "the network namespace has no way anywhere", 0},
		}},
	{"abstract_unix_socket", "abstract unix sockets",
		func(o *outside, token string) []string { return []string{"abstract", token} },
		func(t *testing.T, o *outside, token string) { o.abstract(t, token) }, heard,
		map[policy.Mode]held{
			policy.Platform:  {"gate: abstract names are refused", "Landlock scope", confine.WallScopes},
			policy.Namespace: {"gate, as in platform mode", "network namespace: the name is not there", 0},
			policy.UserNS:    {"gate, as in platform mode", "network namespace: the name is not there", 0},
		}},
	{"signal_to_the_outside", "signals to the supervisor and others of its user",
		func(o *outside, token string) []string { return []string{"signal", fmt.Sprint(o.victim)} }, nil, worked,
		map[policy.Mode]held{
			policy.Platform:  {"Landlock scope", "Landlock scope", confine.WallScopes},
			policy.Namespace: {"Landlock scope", "Landlock scope", confine.WallScopes},
			policy.UserNS:    {"Landlock scope", "Landlock scope", confine.WallScopes},
		}},
	{"container_escape", "container escape by namespaces, mounts and identity",
		func(o *outside, token string) []string { return []string{"escape", fmt.Sprint(o.victim)} }, nil, worked,
		map[policy.Mode]held{
			policy.Platform:  {"seccomp", "no capability, in any set", 0},
			policy.Namespace: {"seccomp", "no capability: root became somebody else first", 0},
			policy.UserNS:    {"seccomp", "no capability: those over the namespace were given up", 0},
		}},
}

func heard(o *outside, token, _ string) bool { return o.reached(token) }
func worked(_ *outside, _, said string) bool { return strings.Contains(said, "ok\n") }

// cannot is why a user without privilege gets no veth pair.
const cannot = "needs CAP_SYS_ADMIN and CAP_NET_ADMIN"

func impossible(m policy.Mode, by who) bool { return m == policy.Namespace && by.as != nil }

// TestParity tries each attack in each mode, started by root and by a user
// without privilege: with every wall, and with nothing but the last one. The
// control is the same attack with no wall at all.
func TestParity(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		o := newOutside(t, b)
		n := 0
		attempt := func(t *testing.T, i int, by who, mode policy.Mode, off confine.Walls) (through bool, said string) {
			n++
			token := fmt.Sprintf("token-%d-%d", os.Getpid(), n)
			a := attacks[i]
			if a.ready != nil {
				a.ready(t, o, token)
			}
			said, _ = b.try(t, by, sandbox{Mode: mode, Policy: o.policy(b), Off: off, Command: append([]string{b.exe, "probe"}, a.args(o, token)...)})
			return a.saw(o, token, said), said
		}
		for i, a := range attacks {
			t.Run(a.name, func(t *testing.T) {
				for _, by := range []who{root, nobody} {
					if a.name != "container_escape" { // that one has a control of its own
						if through, said := attempt(t, i, by, policy.Platform, everyWall); !through {
							t.Errorf("control: %s without any wall did not get through: %s", by.name, said)
						}
					}
					for _, mode := range modes {
						through, said := attempt(t, i, by, mode, 0)
						if through {
							t.Errorf("%v, %s: ESCAPED: %s", mode, by.name, said)
						}
						if impossible(mode, by) {
							if !strings.Contains(said, cannot) {
								t.Errorf("%v, %s: said %q, want the reason why not", mode, by.name, said)
							}
							continue
						}
						if strings.Contains(said, "refused:") {
							t.Errorf("%v, %s: %s", mode, by.name, said)
						}
						if through, said := attempt(t, i, by, mode, everyWall&^a.by[mode].keep); through || strings.Contains(said, "refused:") {
							t.Errorf("%v, %s: with nothing but %s: through = %v: %s", mode, by.name, a.by[mode].last, through, said)
						}
						if a.by[mode].keep == confine.WallPackets {
							// It is the rules and nothing else about the namespace.
							if through, said := attempt(t, i, by, mode, everyWall); !through {
								t.Errorf("control: %v, %s without packet rules did not get through: %s", mode, by.name, said)
							}
						}
					}
				}
			})
		}
		t.Run("container_escape_control", func(t *testing.T) {
			if err := probeEscape([]string{fmt.Sprint(o.victim)}); err != nil {
				t.Errorf("control: root outside: %v", err)
			}
		})
	}, far)
}

// workloads are what must work everywhere.
var workloads = []struct {
	name, what string
	args       func(o *outside) []string
}{
	{"proxied_http", "a client that knows the proxy reaches an allowed name", func(o *outside) []string { return []string{"proxied", "http://page.test/"} }},
	{"captured_http", "a client that knows no proxy looks an allowed name up and reaches it", func(o *outside) []string { return []string{"captured", "http://page.test/"} }},
	{"loopback_server", "a server and a client inside talk over loopback", func(o *outside) []string { return []string{"loopback"} }},
	{"granted_unix_socket", "a unix socket of the host that the policy grants", func(o *outside) []string { return []string{"unix", o.unix} }},
	{"files", "the working directory can be written; what is not granted cannot be read", func(o *outside) []string { return []string{"files", o.secret} }},
	{"interfaces", "interfaces can be listed", func(o *outside) []string { return []string{"network"} }},
}

// TestWorkloads runs what is allowed, with the same result in every mode.
func TestWorkloads(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		o := newOutside(t, b)
		each(t, func(t *testing.T, mode policy.Mode, by who) {
			for _, w := range workloads {
				t.Run(w.name, func(t *testing.T) {
					out, status := b.try(t, by, sandbox{Mode: mode, Policy: o.policy(b), Command: append([]string{b.exe, "probe"}, w.args(o)...)})
					if status != 0 || !strings.Contains(out, "ok\n") {
						t.Errorf("status = %d: %s", status, out)
					}
				})
			}
			t.Run("published_server", func(t *testing.T) { published(t, b, o, mode, by) })
			t.Run("exit_status", func(t *testing.T) {
				for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 128 + 15} {
					if out, got := b.try(t, by, sandbox{Mode: mode, Command: []string{"sh", "-c", script}}); got != want {
						t.Errorf("%q: status = %d, want %d: %s", script, got, want, out)
					}
				}
			})
		})
	}, far)
}

// each runs f for each mode that can be had by each user.
func each(t *testing.T, f func(t *testing.T, mode policy.Mode, by who)) {
	for _, mode := range modes {
		for _, by := range []who{root, nobody} {
			if !impossible(mode, by) {
				t.Run(mode.String()+"/"+by.name, func(t *testing.T) { f(t, mode, by) })
			}
		}
	}
}

// published connects from the host to a port that the policy publishes.
func published(t *testing.T, b *bench, o *outside, mode policy.Mode, by who) {
	c := b.command(t, by, sandbox{Mode: mode, Policy: o.policy(b), Command: []string{b.exe, "probe", "published", "127.0.0.1:8080"}})
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	conn, err := net.DialTimeout("tcp4", "127.0.0.1:8080", patience)
	if err != nil {
		t.Errorf("agent said %q; dialling the published port: %v", lines.Text(), err)
		c.Process.Kill()
	} else {
		fmt.Fprintln(conn, "hello")
		if err := echoed(conn, "hello"); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	lines.Scan()
	if err := c.Wait(); err != nil || lines.Text() != "ok" {
		t.Errorf("agent said %q, %v", lines.Text(), err)
	}
}

// TestNetworkNamespace looks at where the agent is.
func TestNetworkNamespace(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		o := newOutside(t, b)
		own, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		want := map[policy.Mode]string{
			policy.Platform:  `^` + regexp.QuoteMeta(own) + ` lo\n`,
			policy.Namespace: `^net:\[\d+\] lo eth0\n`,
			policy.UserNS:    `^net:\[\d+\] lo\n`, // sockets are the host's; its only interface here is lo
		}
		each(t, func(t *testing.T, mode policy.Mode, by who) {
			out, status := b.try(t, by, sandbox{Mode: mode, Policy: o.policy(b), Command: []string{b.exe, "probe", "network"}})
			at := regexp.MustCompile(`(?m)` + want[mode])
			if status != 0 || !at.MatchString(out) {
				t.Errorf("status = %d, said %q, want %s", status, out, want[mode])
			}
			if mode != policy.Platform && strings.Contains(out, own) {
				t.Errorf("the agent is in the supervisor's namespace: %s", out)
			}
		})
	}, far)
}
