package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// fullScript takes the last process that there is, then makes the supervisor work,
// and says how many threads that had.
const fullScript = `
import os, socket, sys, time
def status(pid, name):
    return next(int(l.split()[1]) for l in open(f"/proc/{pid}/status") if l.startswith(name + ":"))
supervisor = status(status("self", "PPid"), "PPid")
children = []
try:
    while True:
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        children.append(pid)
except OSError:
    pass
threads, answers = status(supervisor, "Threads"), 0
for i in range(100):
    s = socket.socket()
    s.settimeout(60)
    try:
        s.connect(("192.0.2.1", 80))
    except PermissionError:
        answers += 1
    s.close()
print("full", len(children), threads, answers, flush=True)
for pid in children:
    os.kill(pid, 9)
sys.exit(7)
`

// TestNoProcessIsLeft: an agent that takes every process which its cgroup may have
// does not end the supervisor, which has made its threads before.
func TestNoProcessIsLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a cgroup")
	}
	dir := agentDir(t)
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(fmt.Sprintf(onlyFiles, ", /proc")), 0o644); err != nil {
		t.Fatal(err)
	}
	out, status := start(t, dir, []string{"sh", "-c", `echo 300 > "$CGROUP/pids.max" && echo $$ > "$CGROUP/cgroup.procs" && exec "$@"`, "sh",
		"sallyport", "run", "--mode", "platform", "--policy", dir + "/policy.yaml", "--", "/usr/bin/python3", "-c", fullScript})
	said := regexp.MustCompile(`(?m)^full (\d+) (\d+) (\d+)$`).FindStringSubmatch(out)
	if said == nil || status != 7 {
		t.Fatalf("status %d, want the agent's, 7:\n%s", status, out)
	}
	var n [3]int // children, threads, refusals
	for i := range n {
		n[i], _ = strconv.Atoi(said[i+1])
	}
	if n[0] < 100 || n[1] < 17 || n[2] != 100 {
		t.Errorf("%d children, want 100 at least; %d threads of the supervisor, want 17 at least; %d of 100 connections were refused", n[0], n[1], n[2])
	}
}
