package modes

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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
var attacks = [...]struct {
	name  string
	what  string
	args  func(o *outside, token string) []string
	ready func(t *testing.T, o *outside, token string)
	saw   func(o *outside, token, said string, within time.Duration) bool // whether it got through
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

func heard(o *outside, token, _ string, within time.Duration) bool { return o.reached(token, within) }
func worked(_ *outside, _, said string, _ time.Duration) bool      { return strings.Contains(said, "ok\n") }

// cannot is why a user without privilege gets no veth pair.
const cannot = "needs CAP_SYS_ADMIN and CAP_NET_ADMIN"

func impossible(m policy.Mode, by who) bool { return m == policy.Namespace && by.as != nil }

// TestParity tries each attack in each mode, started by root and by a user
// without privilege: with every wall, and with nothing but the last one. The
// control is the same attack with no wall at all. What runs behind the same walls
// runs in the same sandbox, one attack after the other.
func TestParity(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		o := newOutside(t, b)
		tries := 0
		// attempt tries those attacks of which want is true, and says which got
		// through and what each said. Without a sandbox all say why there is none. What
		// should get through is waited for.
		attempt := func(t *testing.T, by who, mode policy.Mode, off confine.Walls, within time.Duration, want func(i int) bool) (through [len(attacks)]bool, said [len(attacks)]string) {
			var args [][]string
			var chosen []int
			var tokens [len(attacks)]string
			for i, a := range attacks {
				if !want(i) {
					continue
				}
				tries++
				tokens[i] = fmt.Sprintf("token-%d-%d", os.Getpid(), tries)
				if a.ready != nil {
					a.ready(t, o, tokens[i])
				}
				chosen, args = append(chosen, i), append(args, a.args(o, tokens[i]))
			}
			out, _ := b.try(t, by, sandbox{Mode: mode, Policy: o.policy(b), Off: off, Command: several(b.exe, args...)})
			each := strings.Split(out, next)
			if len(each) != len(chosen)+1 && !impossible(mode, by) {
				t.Errorf("%d of %d attacks were tried: %s", len(each)-1, len(chosen), out)
			}
			for n, i := range chosen {
				if said[i] = out; len(each) == len(chosen)+1 {
					said[i] = each[n]
				}
				through[i] = attacks[i].saw(o, tokens[i], said[i], within)
			}
			return through, said
		}
		for _, by := range []who{root, nobody} {
			t.Run("control/"+by.name, func(t *testing.T) {
				through, said := attempt(t, by, policy.Platform, everyWall, patient, controlled)
				for i, a := range attacks {
					if controlled(i) && !through[i] {
						t.Errorf("%s without any wall did not get through: %s", a.name, said[i])
					}
				}
			})
			for _, mode := range modes {
				t.Run(mode.String()+"/"+by.name, func(t *testing.T) {
					through, said := attempt(t, by, mode, 0, aMoment, func(int) bool { return true })
					if impossible(mode, by) {
						if !strings.Contains(said[0], cannot) {
							t.Errorf("said %q, want the reason why not", said[0])
						}
						return
					}
					for i, a := range attacks {
						t.Run(a.name, func(t *testing.T) {
							if through[i] {
								t.Errorf("ESCAPED: %s", said[i])
							} else if strings.Contains(said[i], "refused:") {
								t.Error(said[i])
							}
						})
					}
					for _, keep := range kept(mode) {
						alone := func(i int) bool { return attacks[i].by[mode].keep == keep }
						through, said := attempt(t, by, mode, everyWall&^keep, aMoment, alone)
						var open [len(attacks)]bool
						if keep == confine.WallPackets { // it is the rules and nothing else about the namespace
							open, _ = attempt(t, by, mode, everyWall, patient, alone)
						}
						for i, a := range attacks {
							if !alone(i) {
								continue
							}
							t.Run(a.name+"/alone", func(t *testing.T) {
								if through[i] || strings.Contains(said[i], "refused:") {
									t.Errorf("with nothing but %s: through = %v: %s", a.by[mode].last, through[i], said[i])
								}
								if keep == confine.WallPackets && !open[i] {
									t.Error("control: did not get through without packet rules")
								}
							})
						}
					}
				})
			}
		}
		t.Run("container_escape_control", func(t *testing.T) {
			if err := probeEscape([]string{fmt.Sprint(o.victim)}); err != nil {
				t.Errorf("control: root outside: %v", err)
			}
		})
	}, far)
}

// controlled says of which attacks the control is one without any wall; the other
// one has its own.
func controlled(i int) bool { return attacks[i].name != "container_escape" }

// kept are the walls, each alone, that the attacks of a mode are tried against.
func kept(mode policy.Mode) []confine.Walls {
	var out []confine.Walls
	for _, a := range attacks {
		if k := a.by[mode].keep; !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
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
			var all [][]string
			for _, w := range workloads {
				all = append(all, w.args(o))
			}
			out, status := b.try(t, by, sandbox{Mode: mode, Policy: o.policy(b), Command: several(b.exe, all...)})
			said := strings.Split(out, next)
			if status != 0 || len(said) != len(workloads)+1 {
				t.Fatalf("status = %d: %s", status, out)
			}
			for i, w := range workloads {
				t.Run(w.name, func(t *testing.T) {
					if !strings.HasSuffix(said[i], "ok\n") {
						t.Errorf("said %s", said[i])
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

// onlyLoopback waits until the kernel has taken down the pair of a sandbox that has
// ended, which it does behind everybody's back.
func onlyLoopback(t *testing.T) {
	t.Helper()
	if !await(func() bool { return len(links(t)) == 1 }) {
		t.Fatalf("interfaces %v; want lo alone", links(t))
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
			onlyLoopback(t)
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
