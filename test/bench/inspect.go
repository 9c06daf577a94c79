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
	"time"
)

// tlsName is what the origin with TLS is called.
const tlsName = "origin.bench.test"

// tlsWay is how a load reaches the origin with TLS.
type tlsWay struct {
	way
	tlsName, roots string // where they differ from tlsName and the authority's file
	h1             bool   // it offers its clients nothing but HTTP/1.1
	pid            int    // of the proxy; 0: of what runs the load
}

const minimalWay = "terminate and reoriginate, in Go"

// tlsTests are what is measured of each way.
var tlsTests = []struct {
	name, unit string
	spec       tlsSpec
}{
	{"keep-alive, HTTP/1.1, 16 clients", "/s", tlsSpec{What: "keep", Workers: 16, For: time.Second}},
	{"keep-alive, HTTP/2, 16 clients", "/s", tlsSpec{What: "keep", H2: true, Workers: 16, For: time.Second}},
	{"new connections, one at a time", "/s", tlsSpec{What: "conn", For: time.Second}},
	{"bulk", " MiB/s", tlsSpec{What: "bulk", Workers: 1, Bytes: 256 << 20, For: time.Minute}},
	{"1,000 requests a second", "/s", tlsSpec{What: "keep", Workers: 16, Rate: 1000, For: 2 * time.Second}},
}

// tlsResult is of one load. CPU is what the proxy used for it.
type tlsResult struct {
	loadResult
	cpu time.Duration
}

// inspect compares ways to one origin with TLS on loopback, of which all but the
// first end TLS and begin it anew.
func inspect(dir, sally string, rounds int, only string) {
	exe, err := os.Executable()
	check(err)
	self := filepath.Join(dir, "bench") // root's agent is somebody else, who cannot read what go run has built
	run(exec.Command("cp", exe, self))
	ca := newAuthority(dir)
	cert := filepath.Join(dir, "origin.pem")
	ca.issue(cert, tlsName, "localhost")
	at, stop := serve(exec.Command(self, "role", "tlsorigin", cert))
	defer stop()
	ways, stopAll := tlsWays(dir, sally, self, at, ca)
	defer stopAll()
	for _, t := range tlsTests {
		if !strings.Contains(t.name, only) {
			continue
		}
		results := map[string][]tlsResult{}
		for r := -1; r < rounds; r++ {
			for i := range ways {
				w := ways[(i+r+1)%len(ways)]
				if w.h1 && t.spec.H2 {
					continue
				}
				res := w.load(self, t.spec, ca.pem, nil)
				if r >= 0 {
					results[w.name] = append(results[w.name], res)
				}
			}
		}
		reportTLS(t.name, t.unit, t.spec.Rate > 0, ways, results)
	}
	if strings.Contains("idle connections", only) {
		idleTLS(self, ways, ca.pem)
	}
	if strings.Contains("costs", only) {
		costs()
	}
}

// tlsWays starts the proxies that there are.
func tlsWays(dir, sally, self, at string, ca authority) (ways []tlsWay, stop func()) {
	_, port, _ := strings.Cut(at, ":")
	named := "localhost:" + port // peers look it up in the hosts file
	var stops []func()
	add := func(name string, h1 bool, addr string, pid int, stop func()) {
		stops = append(stops, stop)
		ways = append(ways, tlsWay{way: way{name: name, proxy: addr, host: named}, tlsName: "localhost", h1: h1, pid: pid})
	}
	ways = append(ways, tlsWay{way: way{name: "direct", host: at}})
	front := filepath.Join(dir, "front.pem")
	ca.issue(front, tlsName, "localhost")
	c := exec.Command(self, "role", "reoriginate", at, ca.pem, front)
	addr, end := serve(c)
	add(minimalWay, false, addr, c.Process.Pid, end)
	for _, p := range tlsPeers(dir, ca) {
		addr, pid, end := p.start(self)
		add(p.name, p.h1, addr, pid, end)
	}
	policy, events := filepath.Join(dir, "inspect.yaml"), filepath.Join(dir, "events.jsonl")
	check(os.WriteFile(policy, fmt.Appendf(nil, tlsPolicy, self, dir, at), 0o644))
	run := []string{sally, "run", "--mode", "platform", "--policy", policy, "--upstream-ca", ca.pem, "--workdir", dir}
	for _, w := range []struct {
		name string
		more []string
	}{{"sallyport", nil}, {"sallyport, events to a file", []string{"--events", events}}} {
		ways = append(ways, tlsWay{way: way{name: w.name, prefix: slices.Concat(run, w.more, []string{"--"}), proxy: "env", host: tlsName + ":443"}, roots: "system"})
	}
	return ways, func() {
		for _, s := range stops {
			s()
		}
	}
}

const tlsPolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /lib, /lib64, /bin, /etc, /proc, %q, %q]
  read_write: [/dev/null]
host_services:
  - {host: origin.bench.test, port: 443, to: %q}
network_policies:
  origin:
    endpoints:
      - host: origin.bench.test
        port: 443
        protocol: rest
        enforcement: enforce
        rules:
          - allow: {method: GET, path: "/"}
          - allow: {method: GET, path: "/bulk"}
          - allow: {method: POST, path: "/repos/*/issues"}
        deny_rules:
          - {method: "*", path: "/admin/**"}
    binaries: [{path: "/**"}]
`

// load runs one load; look, if not nil, is called with the proxy's pid while the
// load's connections are open and nothing goes over them.
func (w tlsWay) load(self string, s tlsSpec, roots string, look func(pid int)) (r tlsResult) {
	s.Proxy, s.Host, s.Name, s.Roots = w.proxy, w.host, tlsName, roots
	if w.tlsName != "" {
		s.Name = w.tlsName
	}
	if w.roots == "system" {
		s.Roots = "" // which the environment names
	}
	if s.Workers == 0 {
		s.Workers = 1
	}
	spec, err := json.Marshal(s)
	check(err)
	c := w.command(self, "role", "tlsload", string(spec))
	var said strings.Builder
	c.Stderr = &said
	in, err := c.StdinPipe()
	check(err)
	pipe, err := c.StdoutPipe()
	check(err)
	check(c.Start())
	out := bufio.NewReader(pipe)
	pid := w.pid
	if pid == 0 {
		pid = c.Process.Pid
	}
	_, err = out.ReadString('\n')
	if err == nil && look != nil {
		look(pid)
	}
	before := cpuOf(pid)
	io.WriteString(in, "\n")
	if err == nil {
		err = json.NewDecoder(out).Decode(&r.loadResult)
	}
	r.cpu = cpuOf(pid) - before
	in.Close()
	io.Copy(io.Discard, out)
	c.Wait()
	if err == nil && r.Errors > 0 {
		err = fmt.Errorf("%d errors, such as %s", r.Errors, r.Err)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", w.name, err, said.String())
	}
	check(err)
	return r
}

// cpuOf is the processor time that a process has used, in the kernel's ticks of
// 10 ms.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func reportTLS(name, unit string, paced bool, ways []tlsWay, results map[string][]tlsResult) {
	fmt.Printf("\n%-34s %10s  %-18s %9s %9s %9s %8s %8s\n", name, "median", "min–max", "p50", "p99", "CPU µs", "× direct", "× least")
	for _, w := range ways {
		var rate, p50, p99, cpu, direct, least, added []float64
		for i, r := range results[w.name] {
			rate, cpu = append(rate, r.Rate), append(cpu, float64(r.cpu.Microseconds())/float64(max(r.Done, 1)))
			p50, p99 = append(p50, float64(r.P50)), append(p99, float64(r.P99))
			direct = append(direct, r.Rate/results["direct"][i].Rate)
			least = append(least, r.Rate/results[minimalWay][i].Rate)
			added = append(added, float64(r.P99-results["direct"][i].P99))
		}
		if len(rate) == 0 {
			fmt.Printf("%-34s %10s\n", w.name, "–")
			continue
		}
		fmt.Printf("%-34s %8.0f%-6s %-14s %9v %9v %9.0f %8.2f %8.2f", w.name, quantile(rate, 0.5), unit,
			fmt.Sprintf("[%.0f–%.0f]", slices.Min(rate), slices.Max(rate)), micros(quantile(p50, 0.5)), micros(quantile(p99, 0.5)),
			quantile(cpu, 0.5), quantile(direct, 0.5), quantile(least, 0.5))
		if paced {
			fmt.Printf("  p99 added %v [%v–%v]", micros(quantile(added, 0.5)), micros(slices.Min(added)), micros(slices.Max(added)))
		}
		fmt.Println()
	}
}

func micros(ns float64) time.Duration { return time.Duration(ns).Round(time.Microsecond) }

// idleConnections is how many connections with TLS are held at once while
// nothing goes over them.
const idleConnections = 1000

// idleTLS looks at the memory of each proxy with one connection and with many
// that have carried a request.
func idleTLS(self string, ways []tlsWay, roots string) {
	fmt.Printf("\n%-34s %14s %14s %14s\n", "idle connections", "RSS with 1", fmt.Sprint("with ", idleConnections), "KiB each")
	for _, w := range ways {
		if w.name == "direct" {
			continue
		}
		var rss []int
		for _, n := range []int{1, idleConnections} {
			w.load(self, tlsSpec{What: "idle", Workers: n}, roots, func(pid int) {
				time.Sleep(8 * time.Second)
				rss = append(rss, residentKiB(pid))
			})
		}
		fmt.Printf("%-34s %10d KiB %10d KiB %14.1f\n", w.name, rss[0], rss[1], float64(rss[1]-rss[0])/(idleConnections-1))
	}
}

// costs are two figures that need no whole program.
func costs() {
	for _, b := range [][2]string{{"Leaf$", "./internal/egress/inspect"}, {"DecideRequest", "./internal/policy/rego"}} {
		out, err := exec.Command("go", "test", "-run=^$", "-bench="+b[0], "-count=3", b[1]).CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n%s", err, out)
			continue
		}
		fmt.Println()
		for l := range strings.Lines(string(out)) {
			if strings.HasPrefix(l, "Benchmark") {
				fmt.Print(l)
			}
		}
	}
}
