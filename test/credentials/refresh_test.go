package credentials

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/testkit"
)

const refreshPolicy = `version: 1
filesystem_policy: {include_workdir: true, read_only: [READABLE], read_write: [/dev/null]}
network_policies:
  web:
    endpoints:
      - {host: api.example, port: 443, protocol: rest, access: full, allowed_ips: [203.0.113.0/24]}
    binaries: [{path: "/**"}]
`

const refreshConfig = `version: 1
providers:
  api: {profile: github, source: {file: SECRETS/api}, endpoints: [{host: api.example}]}
inference:
  routes: [{api: openai, base_url: "https://model.example"}]
`

// refreshAgent makes one request whenever it is told to, with the placeholder
// that it got at the start.
const refreshAgent = `while read n; do curl -sS -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $GITHUB_TOKEN" "$n" > status 2>&1; mv status status-done; done`

// TestRefresh changes a secret while the agent runs, and takes it away.
func TestRefresh(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		testkit.Require(t, testkit.Program("curl"))
		s.serve(t, "api.example", "203.0.113.10", true, bound)
		s.serve(t, "model.example", "203.0.113.15", true, model)
		fatal(t, os.Mkdir(s.file("secrets"), 0o755))
		first, second := unique("ghp_first"), unique("ghp_second")
		put := func(v string) {
			t.Helper()
			fatal(t, os.WriteFile(s.file("secrets/new"), []byte(v+"\n"), 0o444))
			fatal(t, os.Rename(s.file("secrets/new"), s.file("secrets/api")))
		}
		put(first)
		ask := s.startAsking(t, refreshConfig, refreshAgent, nil)
		if status := ask("https://api.example/v1/a"); status != "200" || !strings.Contains(s.servers["api.example"].got(), "Bearer "+first) {
			t.Fatalf("first: status %s, the server got\n%s", status, s.servers["api.example"].got())
		}
		put(second)
		if status := ask("https://api.example/v1/b"); status != "200" || !strings.Contains(s.servers["api.example"].got(), "Bearer "+second) {
			t.Errorf("after the change: status %s, the server got\n%s", status, s.servers["api.example"].got())
		}
		fatal(t, os.Remove(s.file("secrets/api")))
		before := s.servers["api.example"].count()
		if status := ask("https://api.example/v1/c"); status != "503" || s.servers["api.example"].count() != before {
			t.Errorf("without a secret: status %s, the server got %d requests more", status, s.servers["api.example"].count()-before)
		}
		// inference.local is configured, and the policy has no rule for it.
		if status := ask("https://inference.local/v1/models"); !strings.Contains(status, "403") || s.servers["model.example"].count() != 0 {
			t.Errorf("inference.local without a rule: status %s, the backend got %d requests", status, s.servers["model.example"].count())
		}
	})
}

// startAsking starts the agent, as somebody and with more in the environment of
// sallyport. What it returns makes it ask for a URL, and gives the status that it
// got.
func (s *scene) startAsking(t *testing.T, config, agent string, as *syscall.Credential, env ...string) func(url string) string {
	t.Helper()
	work := s.file("work")
	fatal(t, os.Mkdir(work, 0o755))
	fatal(t, os.Chown(work, testkit.NobodyID, testkit.NobodyID))
	policy, config := s.write(t, "policy.yaml", refreshPolicy), s.write(t, "run.yaml", config)
	cmd := exec.Command(s.bin, "run", "--mode", "platform", "--policy", policy, "--config", config, "--workdir", work, "--upstream-ca", s.file("ca.pem"),
		"--resolve", "api.example=203.0.113.10", "--resolve", "model.example=203.0.113.15", "--", "sh", "-c", agent)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "XDG_STATE_HOME=" + s.file("state")}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := os.Create(s.file("output"))
	fatal(t, err)
	cmd.Stdout, cmd.Stderr = out, out
	in, err := cmd.StdinPipe()
	fatal(t, err)
	fatal(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		out.Close()
	})
	return func(url string) string {
		t.Helper()
		fmt.Fprintln(in, url)
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if b, err := os.ReadFile(work + "/status-done"); err == nil {
				fatal(t, os.Remove(work+"/status-done"))
				return string(b)
			}
		}
		b, _ := os.ReadFile(s.file("output"))
		t.Fatalf("no answer for %s:\n%s", url, b)
		return ""
	}
}
