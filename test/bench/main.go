// Command bench compares whole programs: the same work bare, behind the walls
// of a minimal C program, in sallyport, and in peers that are installed. Rounds
// are interleaved, so a change of the machine's speed hits all alike; what is
// printed are medians, the spread, and the ratio to bare round by round.
//
//	go run ./test/bench                     # everything
//	go run ./test/bench -n 40 start         # one workload
//	go run ./test/bench -n 7 network        # connections and throughput
//	go run ./test/bench -n 5 inspect        # the same where TLS is ended and requests are judged
//	go run ./test/bench -only bulk inspect  # a part of it
//
// As root it measures every mode. It makes veth pairs then: unshare -n, with
// the loopback interface raised, keeps them off the machine's own network.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sallyport/internal/policy"
)

// variant is one way to run a command.
type variant struct {
	name   string
	needs  string // program that must be installed
	prefix []string
}

// workload is one thing to run; every variant runs it in every round.
type workload struct {
	name string
	argv []string
	need string
	runs int // at most so many rounds; 0: as many as -n says
}

type result struct {
	Workload string  `json:"workload"`
	Variant  string  `json:"variant"`
	Runs     int     `json:"runs"`
	Median   float64 `json:"median_ms"`
	P10      float64 `json:"p10_ms"`
	P90      float64 `json:"p90_ms"`
	Ratio    float64 `json:"ratio_to_bare"`  // median of the ratios of each round
	Inside   float64 `json:"ratio_to_walls"` // the same to the C program, a start's time taken from both; 0: there is none
}

// wallsInC is the name of the variant that costs inside what the walls cost.
const wallsInC = "walls in C"

func main() {
	defer func() { // after the servers have ended and the files are gone
		switch p := recover().(type) {
		case nil:
		case failed:
			fmt.Fprintln(os.Stderr, "bench:", p)
			os.Exit(1)
		default:
			panic(p)
		}
	}()
	if len(os.Args) > 2 && os.Args[1] == "role" {
		check(roles[os.Args[2]](os.Args[3:]))
		return
	}
	n := flag.Int("n", 20, "rounds")
	asJSON := flag.Bool("json", false, "print JSON lines")
	only := flag.String("only", "", "of inspect, measure only what has this in its name")
	binary := flag.String("sallyport", "", "measure this binary instead of building one")
	flag.Parse()
	dir, err := os.MkdirTemp("", "sallyport-bench-")
	check(err)
	defer os.RemoveAll(dir)
	check(os.Chmod(dir, 0o777)) // root's agent is somebody else
	variants := prepare(dir, *binary)
	wanted := func(name string) bool { return flag.NArg() == 0 || slices.Contains(flag.Args(), name) }
	if wanted("network") {
		network(dir, filepath.Join(dir, "sallyport"), min(*n, 7))
	}
	if wanted("inspect") {
		inspect(dir, filepath.Join(dir, "sallyport"), min(*n, 7), *only)
	}
	for _, w := range workloads(dir) {
		if !wanted(w.name) {
			continue
		}
		rounds := *n
		if w.runs > 0 {
			rounds = min(rounds, w.runs)
		}
		report(w, measure(w, variants, rounds, dir), *asJSON)
	}
}

// prepare builds what is measured and drops the peers that are not installed.
func prepare(dir, binary string) []variant {
	sally, limit := filepath.Join(dir, "sallyport"), filepath.Join(dir, "limit")
	if binary == "" {
		binary = filepath.Join(dir, "linked")
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./cmd/sallyport")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		run(build)
	}
	// The linker writes through a mapping and leaves a page cache of single pages.
	// A program that was installed, and written in one go, starts half a millisecond faster.
	run(exec.Command("dd", "if="+binary, "of="+sally, "bs=1M"))
	check(os.Chmod(sally, 0o755))
	bwrap := []string{"bwrap", "--unshare-all", "--die-with-parent", "--dev", "/dev", "--proc", "/proc"}
	for _, p := range policy.Default().Filesystem.ReadOnly { // the same paths as sallyport's default
		if _, err := os.Stat(p); err == nil && p != "/proc" && !strings.HasPrefix(p, "/dev/") {
			bwrap = append(bwrap, "--ro-bind", p, p)
		}
	}
	bwrap = append(bwrap, "--bind", "/tmp", "/tmp", "--bind", dir, dir, "--")
	all := []variant{
		{"bare", "", nil},
		{wallsInC, limit, []string{limit, dir}},
		{"sallyport", sally, []string{sally, "run", "--mode", "platform", "--workdir", dir, "--"}},
	}
	for _, m := range otherModes() {
		all = append(all, variant{"sallyport " + m, sally, []string{sally, "run", "--mode", m, "--workdir", dir, "--"}})
	}
	all = append(all, []variant{
		{"bwrap --unshare-all", "bwrap", bwrap},
		{"bwrap --unshare-net", "bwrap", slices.Replace(slices.Clone(bwrap), 1, 2, "--unshare-net")},
		{"firejail --net=none", "firejail", []string{"firejail", "--quiet", "--noprofile", "--net=none", "--"}},
	}...)
	if _, err := exec.LookPath("cc"); err == nil {
		run(exec.Command("cc", "-O2", "-static", "-o", limit, "test/bench/testdata/limit.c"))
	}
	return slices.DeleteFunc(all, func(v variant) bool {
		if v.needs == "" {
			return false
		}
		_, err := exec.LookPath(v.needs)
		if err == nil {
			err = exec.Command(v.prefix[0], append(slices.Clone(v.prefix[1:]), "/bin/true")...).Run()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s does not run here, left out: %v\n", v.name, err)
		}
		return err != nil
	})
}

// otherModes are those beside platform mode that this user can have.
func otherModes() []string {
	if os.Getuid() != 0 {
		return []string{"userns"}
	}
	return []string{"namespace", "userns"}
}

func workloads(dir string) []workload {
	repo := filepath.Join(dir, "repo")
	makeRepo(repo)
	// Somebody else than who made it looks at the tree when root starts this, and
	// each user builds with a cache and for an output of their own.
	git := "git -c safe.directory='*' "
	build := "u=" + dir + "/of-$(id -u); mkdir -p $u/tmp && cd " + repo + "/prog && " +
		"CGO_ENABLED=0 TMPDIR=$u/tmp HOME=$u GOCACHE=$u/cache GOPATH=$u/go GOFLAGS=-buildvcs=false GOPROXY=off GOTOOLCHAIN=local go build -o $u/prog ."
	return []workload{
		start,
		{"fork", []string{"sh", "-c", "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done"}, "", 10},
		{"git", []string{"sh", "-c", "cd " + repo + " && for i in 1 2 3; do " + git + "status >/dev/null && { " + git + "grep -q needle || test $? = 1; } || exit 1; done"}, "git", 10},
		{"find", []string{"sh", "-c", "find /usr >/dev/null 2>&1; true"}, "", 6},
		{"build", []string{"sh", "-c", build}, "go", 6},
	}
}

// start is the least that can be run: what it takes is the start and the end.
var start = workload{"start", []string{"/bin/true"}, "", 0}

// makeRepo makes a git tree of 2,000 small files and a program that needs
// net/http.
func makeRepo(repo string) {
	check(os.MkdirAll(filepath.Join(repo, "prog"), 0o755))
	for i := range 2000 {
		d := filepath.Join(repo, fmt.Sprintf("d%02d", i%40))
		check(os.MkdirAll(d, 0o755))
		check(os.WriteFile(filepath.Join(d, fmt.Sprintf("f%04d.txt", i)), []byte(strings.Repeat(fmt.Sprintln("line", i), 20)), 0o644))
	}
	check(os.WriteFile(filepath.Join(repo, "prog/go.mod"), []byte("module prog\n\ngo 1.26\n"), 0o644))
	check(os.WriteFile(filepath.Join(repo, "prog/main.go"), []byte("package main\n\nimport \"net/http\"\n\nfunc main() { http.Get(\"http://localhost\") }\n"), 0o644))
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "x"}} {
		c := exec.Command("git", args...)
		c.Dir = repo
		run(c)
	}
}

// times are what the rounds of each variant took: the workload, and a start.
type times map[string][]struct{ all, start time.Duration }

// measure runs every variant once a round, in an order that rotates.
func measure(w workload, variants []variant, rounds int, dir string) times {
	t := times{}
	for r := -1; r < rounds; r++ { // round -1 warms up
		for i := range variants {
			v := variants[(i+r+1)%len(variants)]
			all := v.run(w, dir)
			alone := all
			if w.name != start.name {
				alone = v.run(start, dir)
			}
			if r >= 0 {
				t[v.name] = append(t[v.name], struct{ all, start time.Duration }{all, alone})
			}
		}
	}
	return t
}

func (v variant) run(w workload, dir string) time.Duration {
	argv := append(slices.Clone(v.prefix), w.argv...)
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir = dir
	begin := time.Now()
	if out, err := c.CombinedOutput(); err != nil {
		check(fmt.Errorf("%s, %s: %w\n%s", w.name, v.name, err, out))
	}
	return time.Since(begin)
}

func report(w workload, t times, asJSON bool) {
	var rows []result
	for name, rounds := range t {
		var ms, ratios, inside []float64
		for i, r := range rounds {
			ms = append(ms, r.all.Seconds()*1e3)
			ratios = append(ratios, float64(r.all)/float64(t["bare"][i].all))
			if walls := t[wallsInC]; walls != nil && w.name != start.name {
				inside = append(inside, float64(r.all-r.start)/float64(walls[i].all-walls[i].start))
			}
		}
		rows = append(rows, result{w.name, name, len(rounds), quantile(ms, 0.5), quantile(ms, 0.1), quantile(ms, 0.9), quantile(ratios, 0.5), quantile(inside, 0.5)})
	}
	slices.SortFunc(rows, func(a, b result) int {
		if a.Median < b.Median {
			return -1
		}
		return 1
	})
	if asJSON {
		for _, r := range rows {
			json.NewEncoder(os.Stdout).Encode(r)
		}
		return
	}
	fmt.Printf("\n%-22s %8s  %-16s %-7s %s\n", w.name, "median", "p10–p90", "× bare", "× walls in C, less the start")
	for _, r := range rows {
		fmt.Printf("%-22s %6.2f ms  %-16s %-7.2f %.2f\n", r.Variant, r.Median, fmt.Sprintf("[%.2f–%.2f]", r.P10, r.P90), r.Ratio, r.Inside)
	}
}

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[int(q*float64(len(s)-1)+0.5)]
}

func run(c *exec.Cmd) {
	if out, err := c.CombinedOutput(); err != nil {
		check(fmt.Errorf("%v: %w\n%s", c.Args, err, out))
	}
}

// failed is why the run was given up.
type failed struct{ error }

// check gives up the run. It is for the goroutine of main, which takes down on its
// way out what was begun.
func check(err error) {
	if err != nil {
		panic(failed{err})
	}
}
