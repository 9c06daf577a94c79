package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/internal/testkit/tree"
)

// Profiles of a node whose runtime or kernel lacks a wall. The restricted
// standard admits a pod that names a profile of the node.
var profiles = map[string]string{
	"no-landlock.json": `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["landlock_create_ruleset"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}`,
	"no-listener.json": `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["seccomp"],"action":"SCMP_ACT_ERRNO","errnoRet":1,` +
		`"args":[{"index":1,"value":8,"valueTwo":8,"op":"SCMP_CMP_MASKED_EQ"}]}]}`,
}

func onNode(profile string) func(*testing.T, manifest) {
	return func(t *testing.T, m manifest) {
		dir := filepath.Join(os.Getenv("SALLYPORT_BED"), "kubelet", "seccomp")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, profile), []byte(profiles[profile]), 0o644); err != nil {
			t.Fatal(err)
		}
		m.container()["securityContext"].(object)["seccompProfile"] = object{"type": "Localhost", "localhostProfile": profile}
	}
}

// TestBadInputs: what cannot work ends at once, with status 125, and the reason
// is where `kubectl describe pod` shows it.
func TestBadInputs(t *testing.T) {
	for name, tt := range map[string]struct {
		flags  []string
		change func(*testing.T, manifest)
		want   []string
	}{
		"broken-policy": {nil, func(_ *testing.T, m manifest) {
			m.object("ConfigMap")["data"].(object)["policy.yaml"] = "version: 1\nnetwrk: {}\n"
		}, []string{"policy.yaml:2:1", "sallyport policy check"}},
		"unknown-setting": {nil, func(_ *testing.T, m manifest) {
			m.object("ConfigMap")["data"].(object)["supervisor.json"] = `{"polcy": "/x"}`
		}, []string{`"polcy" is unknown`}},
		"missing-secret": {[]string{"--secret", "absent"}, nil, []string{"is empty", "kubectl create secret"}},
		"unwritable-directory": {nil, func(_ *testing.T, m manifest) {
			for _, v := range tree.List(m.pod(), "spec", "volumes") {
				if v["name"] == "work" {
					delete(v, "emptyDir")
					v["configMap"] = object{"name": m.name}
				}
			}
		}, []string{"/work", "cannot write there"}},
		"granted-secret": {[]string{"--secret", "keys"}, func(_ *testing.T, m manifest) {
			m.object("ConfigMap")["data"].(object)["policy.yaml"] = "version: 1\nfilesystem_policy: {read_only: [/]}\n"
		}, []string{"belongs to the supervisor"}},
		"no-landlock": {nil, onNode("no-landlock.json"), []string{"Landlock", "CONFIG_SECURITY_LANDLOCK"}},
		"no-listener": {nil, onNode("no-listener.json"), []string{"seccomp", ";"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := generate(t, "bad-"+name, files, tt.flags, "echo", "the agent ran")
			if tt.change != nil {
				tt.change(t, m)
			}
			s, log := m.finish(t, aWhile)
			if s.code != 125 || s.phase != "Failed" || strings.Contains(log, "the agent ran") {
				t.Errorf("%+v, log %q; want status 125 and no agent", s, log)
			}
			if !strings.HasPrefix(s.message, "sallyport: ") || strings.Count(strings.TrimSpace(s.message), "\n") != 0 {
				t.Errorf("termination message %q, want one line", s.message)
			}
			for _, w := range tt.want {
				if !strings.Contains(s.message, w) {
					t.Errorf("termination message %q lacks %q", s.message, w)
				}
			}
			t.Log(s.message)
		})
	}
}

// TestInitContainerRefuses: a volume that is too small ends the pod with the
// reason, before the agent.
func TestInitContainerRefuses(t *testing.T) {
	m := generate(t, "bad-volume", files, nil, "true")
	tree.List(m.pod(), "spec", "initContainers")[0]["command"] = []any{"/sallyport-supervisor", "copy-self", "/nowhere"}
	m.apply(t)
	s := wait(t, "bad-volume", aWhile, ended)
	if s.code != 125 || !strings.Contains(s.message, "emptyDir") {
		t.Errorf("%+v", s)
	}
}

// TestTermination: SIGTERM reaches the agent, whose answer is the status; one
// that does not answer is killed by the supervisor, before the kubelet would.
func TestTermination(t *testing.T) {
	m := generate(t, "term", files, nil, "sh", "-c", "trap 'echo bye; exit 42' TERM; echo up; while :; do sleep 0.1; done")
	m.apply(t)
	wait(t, "term", aWhile, ready)
	kubectl(t, "exec", "term", "-c", "agent", "--", "sh", "-c", "kill -TERM 1")
	if s := wait(t, "term", aWhile, ended); s.code != 42 || !strings.Contains(logs(t, "term"), "bye\n") {
		t.Errorf("%+v, log %s", s, logs(t, "term"))
	}
	m = generate(t, "deaf", files, []string{"--grace", "6"}, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
	m.apply(t)
	wait(t, "deaf", aWhile, ready)
	kubectl(t, "exec", "deaf", "-c", "agent", "--", "sh", "-c", "kill -TERM 1")
	if s := wait(t, "deaf", aWhile, ended); s.code != 137 || !strings.Contains(logs(t, "deaf"), "did not end within 4s") {
		t.Errorf("%+v, log %s", s, logs(t, "deaf"))
	}
}

// TestFirstProcess: as the container's first process the supervisor collects
// orphans, answers the probes, and is what its file says.
func TestFirstProcess(t *testing.T) {
	m := generate(t, "first", files, nil, "sh", "-c", "echo up; while [ ! -e end ]; do sleep 0.1; done")
	m.apply(t)
	wait(t, "first", aWhile, ready)
	in := func(text string) string { return kubectl(t, "exec", "first", "-c", "agent", "--", "sh", "-c", text) }
	if got := in("cat /proc/1/comm"); got != "sallyport-super\n" {
		t.Fatalf("the first process is %q", got)
	}
	in("(sleep 0.5; exit 3) >/dev/null 2>&1 & exit 0")
	err := until("no zombies", aWhile, func() (bool, error) {
		got := in("sleep 0.6; ps -eo stat,comm")
		return !strings.Contains(got, "Z"), fmt.Errorf("%s", got)
	})
	if err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{"livez": "200", "readyz": "200"} {
		if got := in("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:3129/" + path); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	in("touch /work/end")
	wait(t, "first", aWhile, ended)
}

// TestPlatformChoices: the pod runs in every shape that a platform may give it.
func TestPlatformChoices(t *testing.T) {
	for _, tt := range []struct {
		name   string
		flags  []string
		change func(manifest)
		script string
		want   string
		modern bool
	}{
		{name: "unknown-user", flags: []string{"--run-as-user", "1000680000"}, script: "id -u; touch made && stat -c %u made", want: "1000680000\n1000680000\n"},
		{name: "fs-group", flags: []string{"--run-as-user", "1000680000"}, change: func(m manifest) {
			ctx := tree.At(m.pod(), "spec", "securityContext").(object)
			ctx["fsGroup"], ctx["supplementalGroups"] = 1000680000, []any{1000680001}
		}, script: "id -G; touch made && stat -c %g made", want: "0 1000680000 1000680001\n1000680000\n"},
		{name: "user-namespace", flags: []string{"--host-users", "false"}, script: "cat /proc/self/uid_map | tr -s ' ' | cut -d' ' -f2,4", want: "0 65536\n", modern: true},
		{name: "shared-processes", flags: []string{"--share-processes"}, script: "cat /proc/1/comm", want: "pause\n"},
		{name: "read-only-root", script: "touch /x 2>/dev/null || echo no; touch /tmp/x && echo yes", want: "no\nyes\n"},
		{name: "no-privilege", script: "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t' ' '",
			want: "CapEff: 0000000000000000\nCapBnd: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.modern && !modern() {
				t.Skip("containerd 1.6 cannot give a pod a user namespace")
			}
			m := generate(t, "shape-"+tt.name, files, append(tt.flags, "--events", "none"), "sh", "-c", tt.script)
			if tt.change != nil {
				tt.change(m)
			}
			s, log := m.finish(t, aWhile)
			var said strings.Builder
			for l := range strings.Lines(log) {
				if !strings.HasPrefix(l, "sallyport: ") {
					said.WriteString(l)
				}
			}
			if s.code != 0 || said.String() != tt.want {
				t.Errorf("status %d, the agent said %q, want %q", s.code, said.String(), tt.want)
			}
		})
	}
}

const forkScript = `
import os, sys, time
n = 0
try:
    while n < 5000:
        if os.fork() == 0: time.sleep(600)
        n += 1
except OSError as e: print("fork:", e.strerror, n > 100, flush=True)
time.sleep(600)
`

// TestLimits: an agent at its limit of processes or memory does not take the
// supervisor along: it still answers, or ends with the sandbox.
func TestLimits(t *testing.T) {
	m := generate(t, "forks", files, nil, "python3", "-c", forkScript)
	m.apply(t)
	wait(t, "forks", aWhile, ready)
	if err := until("the limit", aWhile, func() (bool, error) {
		log := logs(t, "forks")
		return strings.Contains(log, "fork: Resource temporarily unavailable True"), fmt.Errorf("%s", log)
	}); err != nil {
		t.Fatal(err)
	}
	s, err := look("forks")
	if err != nil || s.ended {
		t.Errorf("%+v, %v", s, err)
	}
	kubectl(t, "delete", "pod", "forks", "--now")

	s, log := generate(t, "memory", files, []string{"--memory", "256Mi"}, "python3", "-c", "b=[]\nwhile True: b.append(bytearray(10<<20))").finish(t, aWhile)
	if s.code != 137 {
		t.Errorf("memory: %+v\n%s", s, log)
	}
	t.Logf("memory: %s, status %d", s.reason, s.code)
}

// Budgets of the supervisor. A node with 100 such pods pays 100 times the
// second one.
const (
	budgetStart  = 50 // milliseconds that it adds to the start of a container
	budgetMemory = 40 // MiB resident while the agent sleeps
)

// startScript starts the agent's command with and without the supervisor, and
// prints how long each took until the command ran, in nanoseconds.
const startScript = `
export SALLYPORT_TERMINATION=/tmp/t; now() { date +%s%N; }
printf '{"policy":"/sallyport/config/policy.yaml","workdir":"/work"}' > /tmp/c.json
for i in $(seq 25); do
  a=$(now); b=$(sh -c 'exec date +%s%N'); c=$(now)
  d=$(sh -c 'exec /sallyport/bin/sallyport-supervisor run --config /tmp/c.json -- date +%s%N' 2>/dev/null)
  echo "sample $((b-a)) $((d-c))"
done`

// TestCost measures what the supervisor costs a pod.
func TestCost(t *testing.T) {
	m := generate(t, "start-cost", clientPolicy, []string{"--cpu", "2"}, "sh", "-c", startScript)
	m.plain()
	_, log := m.finish(t, 2*time.Minute)
	var without, with []float64
	for l := range strings.Lines(log) {
		f := strings.Fields(l)
		if len(f) != 3 || f[0] != "sample" {
			continue
		}
		a, err1 := strconv.ParseFloat(f[1], 64)
		b, err2 := strconv.ParseFloat(f[2], 64)
		if err1 != nil || err2 != nil || a <= 0 || b <= 0 {
			t.Fatal(l)
		}
		without, with = append(without, a/1e6), append(with, b/1e6)
	}
	if len(with) != 25 {
		t.Fatalf("%d samples:\n%s", len(with), log)
	}
	slices.Sort(without)
	slices.Sort(with)
	// the third of 25: what is above it may have waited for other processes
	added := with[2] - without[2]
	t.Logf("start: a command runs after %.1f ms (%.1f to %.1f), behind the supervisor after %.1f ms (%.1f to %.1f), medians of 25; the supervisor adds %.1f ms (third smallest of each)",
		without[12], without[0], without[24], with[12], with[0], with[24], added)
	if added > budgetStart {
		t.Errorf("the supervisor adds %.1f ms, budget %d", added, budgetStart)
	}

	m = generate(t, "idle-cost", clientPolicy, nil, "sh", "-c", "curl -s http://web.shop.svc.cluster.local/page; curl -s http://other.shop.svc.cluster.local/; sleep 600")
	m.apply(t)
	wait(t, "idle-cost", aWhile, ready)
	if err := until("a decision", aWhile, func() (bool, error) {
		return strings.Contains(logs(t, "idle-cost"), "denied  curl"), fmt.Errorf("%s", logs(t, "idle-cost"))
	}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Second) // what the start has used is given back
	sum := 0.0
	for _, pid := range supervisors(t) {
		kib := memory(t, pid)
		t.Logf("memory: RSS %.1f MiB (%.1f of its own, %.1f of files), PSS %.1f MiB", mib(kib["Rss"]), mib(kib["Anonymous"]), mib(kib["Rss"]-kib["Anonymous"]), mib(kib["Pss"]))
		sum += mib(kib["Pss"])
		if mib(kib["Rss"]) > budgetMemory {
			t.Errorf("the supervisor has %.1f MiB resident, budget %d", mib(kib["Rss"]), budgetMemory)
		}
	}
	t.Logf("memory: a node with 100 such pods needs %.1f GiB for their supervisors and guards (PSS)", sum*100/1024)
}

// TestPodStart tells what a whole pod costs from kubectl apply to the agent's
// first breath: without a supervisor, with one that is in the image, and with
// one that an init container brings. These are figures and no budget: most of
// them is the kubelet's and the runtime's.
func TestPodStart(t *testing.T) {
	names := []string{"plain", "supervisor in the image", "supervisor brought"}
	took := make([][]float64, len(names))
	for i := range 5 {
		for way := range names {
			flags := []string{"--cpu", "2"}
			if way < 2 {
				flags = append(flags, "--supervisor-in-image", "/usr/local/bin/sallyport-supervisor")
			}
			m := generate(t, fmt.Sprintf("pod-start-%d-%d", way, i), files, flags, "date", "+%s%N")
			if way == 0 {
				m.plain()
			}
			begun := time.Now()
			_, log := m.finish(t, aWhile)
			for l := range strings.Lines(log) {
				if ns, err := strconv.ParseInt(strings.TrimSpace(l), 10, 64); err == nil {
					took[way] = append(took[way], time.Unix(0, ns).Sub(begun).Seconds())
				}
			}
		}
	}
	for way, name := range names {
		if len(took[way]) != 5 {
			t.Fatalf("%s: %d samples", name, len(took[way]))
		}
		slices.Sort(took[way])
		t.Logf("pod start, %s: %.2f s (median of 5; %.2f to %.2f)", name, took[way][2], took[way][0], took[way][4])
	}
}

func mib(kib int) float64 { return float64(kib) / 1024 }

// supervisors finds the processes of idle-cost from outside: the cluster's
// process namespace is this one.
func supervisors(t *testing.T) []int {
	t.Helper()
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, c := range comms {
		name, err := os.ReadFile(c)
		pid, _ := strconv.Atoi(strings.Split(c, "/")[2])
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && string(name) == "sallyport-super\n" && strings.Contains(string(args), "sleep 600") {
			out = append(out, pid)
		}
	}
	if len(out) == 0 {
		t.Fatal("no supervisor is running")
	}
	return out
}

// memory reads /proc/PID/smaps_rollup, in KiB.
func memory(t *testing.T, pid int) map[string]int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for l := range strings.Lines(string(raw)) {
		f := strings.Fields(l)
		if len(f) == 3 && f[2] == "kB" {
			out[strings.TrimSuffix(f[0], ":")], _ = strconv.Atoi(f[1])
		}
	}
	return out
}
