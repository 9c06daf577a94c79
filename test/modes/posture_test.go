package modes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

// postureScript is all that the kernel says about the agent and that differs by
// mode, or must not.
const postureScript = `grep -E '^(Uid|Gid|Cap|NoNewPrivs|Seccomp:)' /proc/self/status
for n in /proc/self/ns/*; do echo "ns $(basename $n): $(readlink $n)"; done
echo "fds: $(ls /proc/self/fd | tr '\n' ' ')"
echo "uid_map: $(tr -s ' ' < /proc/self/uid_map)"`

// own says which namespaces are the agent's own in a mode; every other one is
// the supervisor's, and one that is not known to this test is a failure.
var own = map[policy.Mode][]string{
	policy.Platform:  nil,
	policy.Namespace: {"net"},
	policy.UserNS:    {"net", "user"},
}

// TestPosture compares everything with what the mode promises.
func TestPosture(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		o := newOutside(t, b)
		outside := map[string]string{}
		links, err := filepath.Glob("/proc/self/ns/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if outside[filepath.Base(l)], err = os.Readlink(l); err != nil {
				t.Fatal(err)
			}
		}
		each(t, func(t *testing.T, mode policy.Mode, by who) {
			out, status := b.try(t, by, sandbox{Mode: mode, Policy: o.policy(b), Command: []string{"sh", "-c", postureScript}})
			if status != 0 {
				t.Fatalf("status = %d: %s", status, out)
			}
			got := map[string]string{}
			for line := range strings.Lines(out) {
				if k, v, is := strings.Cut(line, ":"); is {
					got[k] = strings.Join(strings.Fields(v), " ")
				}
			}
			const none = "0000000000000000"
			want := map[string]string{
				"Uid": "65534 65534 65534 65534", "Gid": "65534 65534 65534 65534", "NoNewPrivs": "1", "Seccomp": "2",
				"CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none, "fds": "0 1 2 3",
				"uid_map": "0 0 4294967295",
			}
			if by.as == nil || mode == policy.UserNS { // a user cannot empty the bounding set of its own namespace
				want["CapBnd"] = none
			}
			if mode == policy.UserNS {
				want["uid_map"] = "65534 65534 1"
			}
			for k, w := range want {
				if got[k] != w {
					t.Errorf("%s = %q, want %q", k, got[k], w)
				}
			}
			for k, g := range got {
				name, is := strings.CutPrefix(k, "ns ")
				if !is {
					continue
				}
				mine := fmt.Sprint(own[mode])
				if apart := g != outside[name]; apart != strings.Contains(mine, strings.TrimSuffix(name, "_for_children")) {
					t.Errorf("namespace %s is %s, the supervisor's is %s; own in this mode: %s", name, g, outside[name], mine)
				}
			}
			if len(got) < len(want)+len(outside) {
				t.Errorf("the agent saw %d facts: %s", len(got), out)
			}
		})
	}, far)
}
