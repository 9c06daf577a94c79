package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/internal/testkit/tree"
	"sallyport/test/programs/resolvers"
)

// tools is where the agent's image has the clients of the table of resolvers.
const tools = "/usr/local/lib/resolvers"

// lookups asks for both names through every resolver, and connects to what it
// said of the allowed one.
func lookups(allowed, denied string) string {
	var b strings.Builder
	for i, r := range resolvers.Table {
		fmt.Fprintf(&b, "echo '== %d allowed'; (%s) >/tmp/said 2>&1; cat /tmp/said\n", i, r.Script(tools, allowed))
		fmt.Fprintf(&b, "a=$(grep -o '198\\.19\\.[0-9]*\\.[0-9]*' /tmp/said | head -n 1)\n")
		fmt.Fprintf(&b, "curl -s --noproxy '*' --max-time 20 --resolve %[1]s:80:$a http://%[1]s/page\n", allowed)
		fmt.Fprintf(&b, "echo '== %d denied'; (%s) 2>&1\n", i, r.Script(tools, denied))
	}
	return b.String()
}

// bindLow listens on a port below 1024, which the policy opens.
const bindLow = "echo '== bind'; python3 -c 'import socket; socket.socket().bind((\"127.0.0.1\", 80)); print(\"bound\")' 2>&1\n"

// TestResolvers: every resolver of the table finds the allowed service's name and
// not the other's, in a pod where ports below 1024 take privilege and in one
// where they do not. What is at such an address is the service. Of the other name
// not one packet leaves the pod.
func TestResolvers(t *testing.T) {
	const allowed, denied = "web.shop.svc.cluster.local", "other.shop.svc.cluster.local"
	wire := resolvers.Watch(t, func(f func()) { f() }, "web", "other")
	for _, tt := range []struct{ start, bind string }{{"80", "bound"}, {"1024", "Permission denied"}} {
		t.Run("ip_unprivileged_port_start="+tt.start, func(t *testing.T) {
			m := generate(t, "resolvers-"+tt.start, clientPolicy+"sockets: {bind: [80]}\n", []string{"--cpu", "2"}, "sh", "-c", lookups(allowed, denied)+bindLow)
			sysctl := tree.List(m.pod(), "spec", "securityContext", "sysctls")
			if len(sysctl) != 1 || sysctl[0]["value"] != "80" {
				t.Fatalf("the manifest's sysctls are %v", sysctl)
			}
			sysctl[0]["value"] = tt.start
			_, log := m.finish(t, 3*time.Minute)
			said := sections(log)
			for i, r := range resolvers.Table {
				t.Run(r.Name, func(t *testing.T) {
					if _, err := os.Stat(filepath.Join(os.Getenv("SALLYPORT_E2E_BIN"), "resolvers", r.Built)); err != nil {
						t.Skipf("its compiler is not installed: %v", err)
					}
					if got := said[fmt.Sprint(i, " allowed")]; !strings.Contains(got, "198.19.") || !strings.Contains(got, "REACHED web") {
						t.Errorf("the allowed name: %q", got)
					}
					if got := said[fmt.Sprint(i, " denied")]; !strings.Contains(got, r.Denied) || strings.Contains(got, "198.19.") {
						t.Errorf("the denied name: %q, want %q", got, r.Denied)
					}
				})
			}
			if got := said["bind"]; !strings.Contains(got, tt.bind) {
				t.Errorf("a port below 1024: %q, want %q", got, tt.bind)
			}
			if !strings.Contains(log, denied+":53") {
				t.Error("no line tells of the denied name")
			}
			if t.Failed() {
				t.Log(log)
			}
		})
	}
	if n := wire.Frames("other"); n != 0 {
		t.Errorf("%d packets asked for the denied name", n)
	}
	// controls: the allowed name is asked for by the supervisor, and a pod without
	// one asks for the other
	if wire.Frames("web") == 0 {
		t.Error("control: no packet asked for the allowed name")
	}
	generate(t, "resolvers-control", files, nil, "getent", "ahosts", denied).plain().finish(t, aWhile)
	if wire.Frames("other") == 0 {
		t.Error("control: a pod without a supervisor asks, and it was not seen")
	}
}
