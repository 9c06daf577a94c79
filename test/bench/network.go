package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// way is how a load reaches the origin.
type way struct {
	name   string
	prefix []string // in front of the load's command
	proxy  string
	host   string
}

// networkTests are what is measured of each way. The unit is of the rate.
var networkTests = []struct {
	name, unit string
	spec       loadSpec
}{
	{"dial, one at a time", "/s", loadSpec{What: "dial", Workers: 1, For: 500 * time.Millisecond}},
	{"connections, one at a time", "/s", loadSpec{What: "conn", Workers: 1, For: 500 * time.Millisecond}},
	{"connections, 16 at a time", "/s", loadSpec{What: "conn", Workers: 16, For: 500 * time.Millisecond}},
	{"bulk", " MiB/s", loadSpec{What: "bulk", Workers: 1, Bytes: 512 << 20, For: time.Minute}},
}

const originHost = "origin.bench.test:80"

// network compares ways to one origin on loopback.
func network(dir, sally string, rounds int) {
	self, err := os.Executable()
	check(err)
	at, stop := serve(exec.Command(self, "role", "origin"))
	defer stop()
	plain, stopSplice := serve(exec.Command(self, "role", "splice", at))
	defer stopSplice()
	policy := filepath.Join(dir, "network.yaml")
	check(os.WriteFile(policy, fmt.Appendf(nil, networkPolicy, self, dir, at), 0o644))
	in := func(mode string) []string {
		return []string{sally, "run", "--mode", mode, "--policy", policy, "--workdir", dir, "--"}
	}
	inside := in("platform")
	ways := []way{
		{"direct", nil, "", at},
		{"splice proxy", nil, plain, originHost},
		{"sallyport, CONNECT", inside, "env", originHost},
		{"sallyport, captured", inside, "", originHost},
	}
	for _, m := range otherModes() {
		ways = append(ways, way{"sallyport " + m + ", CONNECT", in(m), "env", originHost}, way{"sallyport " + m + ", captured", in(m), "", originHost})
	}
	for _, p := range peers(dir) {
		addr, stop := serve(p.cmd)
		defer stop()
		ways = append(ways, way{p.name, nil, addr, at})
	}
	for _, t := range networkTests {
		rates := map[string][]loadResult{}
		for r := -1; r < rounds; r++ {
			for i := range ways {
				w := ways[(i+r+1)%len(ways)]
				s := t.spec
				s.Proxy, s.Host = w.proxy, w.host
				res, err := w.load(self, s)
				check(err)
				if r >= 0 {
					rates[w.name] = append(rates[w.name], res)
				}
			}
		}
		reportRates(t.name, t.unit, ways, rates)
	}
	held(self, inside)
}

const networkPolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /lib, /lib64, /bin, /etc, /proc, %q, %q]
  read_write: [/dev/null]
host_services:
  - {host: origin.bench.test, port: 80, to: %q}
network_policies:
  origin:
    endpoints: [{host: origin.bench.test, port: 80}]
    binaries: [{path: "/**"}]
`

// serve starts a server that says where it listens, and ends with its input.
func serve(c *exec.Cmd) (addr string, stop func()) {
	in, err := c.StdinPipe()
	check(err)
	out, err := c.StdoutPipe()
	check(err)
	c.Stderr = os.Stderr
	check(c.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	check(err)
	return strings.TrimSpace(line), func() {
		in.Close()
		c.Wait()
	}
}

// command is a load in a session of its own, which the agent of a sandbox has: the
// kernel divides time among sessions before it does among processes (autogroups,
// sched(7)), and a load that shares one with its server and proxy is scheduled
// in another way.
func (w way) command(argv ...string) *exec.Cmd {
	argv = append(slices.Clone(w.prefix), argv...)
	c := exec.Command(argv[0], argv[1:]...)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: len(w.prefix) == 0}
	return c
}

func (w way) load(self string, s loadSpec) (r loadResult, err error) {
	spec, err := json.Marshal(s)
	check(err)
	c := w.command(self, "role", "load", string(spec))
	var said strings.Builder
	c.Stderr = &said
	out, err := c.Output()
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err == nil && r.Errors > 0 {
		err = fmt.Errorf("%d errors, such as %s", r.Errors, r.Err)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", w.name, err, said.String())
	}
	return r, err
}

func reportRates(name, unit string, ways []way, rates map[string][]loadResult) {
	fmt.Printf("\n%-30s %10s  %-20s %10s %10s  %s\n", name, "median", "min–max", "p50", "p99", "× direct")
	for _, w := range ways {
		var rate, p50, p99, ratio []float64
		for i, r := range rates[w.name] {
			rate = append(rate, r.Rate)
			p50, p99 = append(p50, float64(r.P50)), append(p99, float64(r.P99))
			ratio = append(ratio, r.Rate/rates["direct"][i].Rate)
		}
		fmt.Printf("%-30s %8.0f%s  %-20s %10v %10v  %.2f\n", w.name, quantile(rate, 0.5), unit,
			fmt.Sprintf("[%.0f–%.0f]", slices.Min(rate), slices.Max(rate)),
			time.Duration(quantile(p50, 0.5)).Round(time.Microsecond), time.Duration(quantile(p99, 0.5)).Round(time.Microsecond), quantile(ratio, 0.5))
	}
}

// heldConnections is how many captured connections are held at once, if the
// limit of descriptors allows: each is two of the supervisor's, and it keeps 512.
const heldConnections = 10000

// held opens many captured connections and looks at the supervisor's memory
// with them, after a while in which nothing was said.
func held(self string, inside []string) {
	var l unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_NOFILE, &l))
	for _, n := range []int{1, min(heldConnections, int(l.Max-512)/2-64)} {
		argv := append(slices.Clone(inside), self, "role", "hold", originHost, strconv.Itoa(n))
		c := exec.Command(argv[0], argv[1:]...)
		in, err := c.StdinPipe()
		check(err)
		out, err := c.StdoutPipe()
		check(err)
		c.Stderr = os.Stderr
		check(c.Start())
		var r loadResult
		err = json.NewDecoder(out).Decode(&r)
		at := residentKiB(c.Process.Pid)
		time.Sleep(20 * time.Second)
		rss := residentKiB(c.Process.Pid)
		in.Close()
		io.Copy(io.Discard, out)
		c.Wait()
		check(err)
		fmt.Printf("\n%d captured connections held: %d lost, connect p50 %v p99 %v, supervisor RSS %d KiB at once, %d KiB after 20 s\n",
			n, r.Errors, r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond), at, rss)
	}
}

func residentKiB(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(err)
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "VmRSS:" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	return 0
}

// peer is another proxy, built from Go modules that the project itself does not
// depend on.
type peer struct {
	name string
	cmd  *exec.Cmd
}

func peers(dir string) []peer {
	bin := filepath.Join(dir, "peers")
	c := exec.Command("go", "build", "-o", bin, ".")
	c.Dir = "test/bench/peers"
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: peers are left out: %v\n%s", err, out)
		return nil
	}
	return []peer{{"goproxy", exec.Command(bin, "goproxy")}, {"smokescreen", exec.Command(bin, "smokescreen")}}
}
