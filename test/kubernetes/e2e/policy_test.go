package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/internal/testkit/tree"
)

// secretValue is what is in the pods' Secret; no agent may ever print it.
const secretValue = "s3cret-of-the-supervisor"

const files = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /bin, /sbin, /lib, /lib64, /etc, /proc, /dev/urandom]
  read_write: [/dev/null, /tmp]
`

// clientPolicy lets each client reach the one server that is meant for it.
const clientPolicy = files + `network_policies:
  web:
    endpoints: [{host: web.shop.svc.cluster.local, port: 80, allowed_ips: [10.96.0.0/16]}]
    binaries: [{path: /usr/bin/curl}, {path: "/usr/lib/git-core/*"}, {path: "/usr/bin/python3*"}, {path: /usr/bin/node}]
  db:
    endpoints: [{host: db.shop.svc.cluster.local, port: 5432, allowed_ips: [10.96.0.0/16]}]
    binaries: [{path: /usr/lib/postgresql/15/bin/psql}]
`

// TestAdmitted: the standard admits the pod without a word, in every way that a
// namespace can ask for, and the agent runs. A pod that asks for more is
// refused, and warned of.
func TestAdmitted(t *testing.T) {
	bad := generate(t, "bad", files, nil, "true")
	delete(bad.container()["securityContext"].(object), "capabilities")
	raw, err := json.Marshal(bad.list)
	if err != nil {
		t.Fatal(err)
	}
	_, err = execute(string(raw), "kubectl", "apply", "-f", "-")
	execute("", "kubectl", "-n", sandboxes, "delete", "configmap,networkpolicy", "bad")
	if err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest"`) {
		t.Fatalf("control: a pod that keeps its capabilities: %v", err)
	}

	m := generate(t, "admitted", files, []string{"--secret", "keys"}, "sh", "-c", "echo the agent runs; exit 7")
	if warnings := m.apply(t); strings.Contains(warnings, "Warning") {
		t.Errorf("kubectl warned: %s", warnings)
	}
	s := wait(t, "admitted", aWhile, ended)
	if log := logs(t, "admitted"); s.code != 7 || !strings.Contains(log, "the agent runs\n") {
		t.Errorf("status %d, log %q", s.code, log)
	}
	audit, err := os.ReadFile(filepath.Join(os.Getenv("SALLYPORT_BED"), "log", "audit.json"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(audit)) {
		seen := strings.Contains(line, "pod-security.kubernetes.io/audit-violations")
		if strings.Contains(line, `"name":"admitted"`) && seen {
			t.Errorf("audit: %s", line)
		}
	}
	if !strings.Contains(string(audit), `"name":"admitted"`) {
		t.Error("control: the audit log does not know the pod")
	}
}

// clients are the programs and what they print when they got through.
var clients = []struct{ name, script, want string }{
	{"curl", `curl -sS --fail http://$WEB/page`, "REACHED"},
	{"curl_captured", `env -u http_proxy -u HTTP_PROXY -u all_proxy -u ALL_PROXY curl -sS --fail http://$WEB/page`, "REACHED"},
	{"git", `rm -rf c; git clone -q http://$WEB/repo.git c && cat c/README`, "cloned"},
	{"python3", `python3 -c 'import os,urllib.request as u; print(u.urlopen("http://"+os.environ["WEB"]+"/page").read().decode())'`, "REACHED"},
	{"npm", `rm -rf n; mkdir n; cd n; npm install --no-audit --no-fund --fetch-retries=0 --registry http://$WEB/ tiny >&2 && node -p 'require("tiny")'`, "installed"},
	{"psql", `psql -h $DB -U agent -d postgres -Atc 'select 41 + 1'`, "42"},
}

// TestClients: each program reaches its service in the cluster, and no other.
func TestClients(t *testing.T) {
	const service = ".shop.svc.cluster.local"
	var b strings.Builder
	b.WriteString("export HOME=/work npm_config_cache=/tmp/npm PGCONNECT_TIMEOUT=10\ncd /work\n")
	for _, side := range []struct{ name, web, db string }{{"allowed", "web", "db"}, {"denied", "other", "otherdb"}} {
		b.WriteString("export WEB=" + side.web + service + " DB=" + side.db + service + "\n")
		for _, c := range clients {
			b.WriteString("echo '== " + c.name + " " + side.name + "'; (" + c.script + ") 2>&1; echo\n")
		}
	}
	_, log := script(t, "clients", clientPolicy, nil, b.String())
	said := sections(log)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			if got := said[c.name+" allowed"]; !strings.Contains(got, c.want) {
				t.Errorf("the allowed service: %q, want %q", got, c.want)
			}
			if got, ran := said[c.name+" denied"]; !ran || strings.Contains(got, c.want) {
				t.Errorf("the other service: %q", got)
			}
		})
	}
	if t.Failed() {
		t.Log(log)
	}
	t.Run("told", func(t *testing.T) { told(t, log) })
}

// sections parts what an agent said by its lines "== NAME"; what the supervisor
// said is left out.
func sections(log string) map[string]string {
	said := map[string]string{}
	key := ""
	for line := range strings.Lines(log) {
		if head, is := strings.CutPrefix(line, "== "); is {
			key = strings.TrimSpace(head)
			continue
		}
		if !strings.HasPrefix(line, "{") && !strings.HasPrefix(line, "sallyport: ") {
			said[key] += line
		}
	}
	return said
}

// told: a denial is a line that a person can read, and an event that a machine
// can, and both name the service that was asked for.
func told(t *testing.T, log string) {
	const host = "other.shop.svc.cluster.local"
	var line, event bool
	for l := range strings.Lines(log) {
		if strings.HasPrefix(l, "sallyport: denied  curl → ") && strings.Contains(l, host) {
			line = true
		}
		var e object
		if !strings.HasPrefix(l, "{") || json.Unmarshal([]byte(l), &e) != nil {
			continue
		}
		if e["disposition"] == "Blocked" && tree.At(e, "dst_endpoint", "hostname") == host && tree.At(e, "actor", "process", "name") == "curl" {
			event = true
		}
	}
	if !line || !event {
		t.Errorf("a line for people: %v; an event: %v\n%s", line, event, log)
	}
}

// reachScript tries what no agent may reach, by the proxy and around it. HOST is
// the neighbour's address.
const reachScript = `
reach() { name=$1; shift
for way in "" "--noproxy *"; do set -f; curl -sk --max-time 10 $way "$@" | tr -d '\n' | sed "s/^/$name: /"; echo; done; }
reach apiserver https://10.96.0.1/version
reach node_apiserver https://10.89.0.1:6443/version
reach kubelet https://10.89.0.1:10250/healthz
reach neighbour http://NEIGHBOUR:8080/page
reach metadata http://169.254.169.254/
reach name http://metadata.example/
`

var reachable = []struct{ name, answer string }{
	{"apiserver", "gitVersion"}, {"node_apiserver", "gitVersion"}, {"kubelet", "Unauthorized"},
	{"neighbour", "REACHED web"}, {"metadata", "REACHED metadata"}, {"name", "REACHED metadata"},
}

// TestAgentReachesNothing: the API server, the kubelet, a neighbour and the
// metadata service answer a pod without a supervisor, and not the agent, not
// even where the policy allows the names that lead there.
func TestAgentReachesNothing(t *testing.T) {
	ip := strings.TrimSpace(kubectl(t, "-n", shop, "get", "pod", "web", "-o", "jsonpath={.status.podIP}"))
	text := strings.ReplaceAll(reachScript, "NEIGHBOUR", ip)
	policy := files + `network_policies:
  all:
    endpoints: [{host: metadata.example, port: 80}]
    binaries: [{path: "/**"}]
`
	_, control := generate(t, "reach-control", policy, nil, "sh", "-c", text).plain().finish(t, aWhile)
	_, log := script(t, "reach", policy, nil, text)
	for _, r := range reachable {
		t.Run(r.name, func(t *testing.T) {
			if !strings.Contains(control, r.name+": ") || !answered(control, r.name, r.answer) {
				t.Errorf("control: %s", control)
			}
			if answered(log, r.name, r.answer) {
				t.Errorf("reached: %s", log)
			}
		})
	}
}

// answered tells whether a line of the log has the answer of the named server.
func answered(log, name, answer string) bool {
	for l := range strings.Lines(log) {
		if strings.HasPrefix(l, name+": ") && strings.Contains(l, answer) {
			return true
		}
	}
	return false
}

// stealScript looks for the Secret in every place where the same user finds it
// outside of a sandbox.
const stealScript = `
find /sallyport/ -type f 2>/dev/null | xargs cat 2>/dev/null
cat /sallyport/secrets/token /sallyport/secrets/..data/token
for p in /proc/[0-9]*; do cat $p/root/sallyport/secrets/token $p/cwd/sallyport/secrets/token; tr '\0' '\n' < $p/environ; done 2>/dev/null
python3 - <<'END'
import os, re
for p in os.listdir("/proc"):
    if not p.isdigit() or int(p) == os.getpid(): continue
    try:
        name = open("/proc/%s/comm" % p).read().strip()
        maps = open("/proc/%s/maps" % p).read(); mem = open("/proc/%s/mem" % p, "rb")
    except OSError as e:
        print("memory of", p, e.strerror); continue
    if name == "sallyport-super": print("MEMORY of", name, "is open")
END
ls /proc/1/fd /proc/1/root/ 2>&1
`

// TestSecretIsHeld: the Secret is in the agent's own container, and readable by
// the agent's own user; the sandbox is what keeps it.
func TestSecretIsHeld(t *testing.T) {
	m := generate(t, "secret", files, []string{"--secret", "keys", "--env", "OF_THE_AGENT=yes"}, "sh", "-c", stealScript+"\necho tried; while [ ! -e end ]; do sleep 0.2; done")
	m.apply(t)
	wait(t, "secret", aWhile, ready)
	if got := kubectl(t, "exec", "secret", "-c", "agent", "--", "cat", "/sallyport/secrets/token"); got != secretValue {
		t.Fatalf("control: the user of the pod reads %q", got)
	}
	if got := kubectl(t, "exec", "secret", "-c", "agent", "--", "sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; done 2>/dev/null; true"); !strings.Contains(got, "OF_THE_AGENT=yes") {
		t.Fatalf("control: the environment of processes is closed to the user of the pod: %q", got)
	}
	kubectl(t, "exec", "secret", "-c", "agent", "--", "touch", "/work/end")
	wait(t, "secret", aWhile, ended)
	log := logs(t, "secret")
	if !strings.Contains(log, "tried\n") {
		t.Fatalf("the agent did not get to its end: %s", log)
	}
	for _, bad := range []string{secretValue, "MEMORY of sallyport-super", "KUBERNETES_SERVICE_HOST"} {
		if strings.Contains(log, bad) {
			t.Errorf("the agent found %q:\n%s", bad, log)
		}
	}
}

// TestTokenIsAbsent: no service account's token is in the pod.
func TestTokenIsAbsent(t *testing.T) {
	_, log := script(t, "token", files, nil, "ls /var/run/secrets /run/secrets 2>&1; env")
	if strings.Contains(log, "serviceaccount\n") || strings.Contains(log, "KUBERNETES_") {
		t.Errorf("the pod has %s", log)
	}
}
