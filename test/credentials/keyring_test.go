package credentials

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/testkit"
)

const keyringConfig = `version: 1
providers:
  api: {profile: github, source: {keyring: {service: forge, account: me}, ttl: 10s}, endpoints: [{host: api.example}]}
inference:
  routes: [{api: openai, base_url: "https://model.example"}]
`

// sessionBus is a bus that starts nothing by itself.
const sessionBus = `<busconfig><type>session</type><listen>unix:path=SOCKET</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// keyringAgent asks the keyring itself before it asks for a URL.
const keyringAgent = `DBUS_SESSION_BUS_ADDRESS=ADDRESS secret-tool lookup service forge username me > own 2>&1; echo "status $?" >> own; ` + refreshAgent

// desktop is a session of somebody with a keyring that is open.
type desktop struct {
	as  *syscall.Credential
	dir string
	env []string
}

// newDesktop starts a bus and a Secret Service (specifications.freedesktop.org/
// secret-service) on it, GNOME's.
func newDesktop(t *testing.T, s *scene) *desktop {
	d := &desktop{as: &syscall.Credential{Uid: testkit.NobodyID, Gid: testkit.NobodyID}, dir: s.file("desktop")}
	fatal(t, os.Mkdir(d.dir, 0o700))
	fatal(t, os.Chown(d.dir, testkit.NobodyID, testkit.NobodyID))
	socket := d.dir + "/bus"
	d.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "XDG_RUNTIME_DIR=" + d.dir, "DBUS_SESSION_BUS_ADDRESS=unix:path=" + socket}
	conf := s.file("bus.conf")
	fatal(t, os.WriteFile(conf, []byte(strings.ReplaceAll(sessionBus, "SOCKET", socket)), 0o644))
	d.start(t, "", "dbus-daemon", "--nofork", "--nopidfile", "--config-file="+conf)
	d.until(t, "the bus", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	d.start(t, "the keyring's password", "gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
	return d
}

func (d *desktop) command(in, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = d.dir, d.env, strings.NewReader(in)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.as}
	return cmd
}

func (d *desktop) start(t *testing.T, in, name string, args ...string) {
	t.Helper()
	cmd := d.command(in, name, args...)
	fatal(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

func (d *desktop) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: waited a minute", what)
		}
	}
}

// put stores a secret the way a person does.
func (d *desktop) put(t *testing.T, secret string) {
	t.Helper()
	d.until(t, "storing a secret", func() bool {
		return d.command(secret, "secret-tool", "store", "--label=forge", "service", "forge", "username", "me").Run() == nil
	})
}

// TestKeyring takes a secret from a real Secret Service, follows it there, and
// fails closed when it is gone. The agent, who is the same user, cannot ask it.
func TestKeyring(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		for _, p := range []string{"curl", "dbus-daemon", "gnome-keyring-daemon", "secret-tool"} {
			testkit.Require(t, testkit.Program(p))
		}
		s.serve(t, "api.example", "203.0.113.10", true, bound)
		d := newDesktop(t, s)
		first, second := unique("ghp_first"), unique("ghp_second")
		d.put(t, first)
		if out, err := d.command("", "secret-tool", "lookup", "service", "forge", "username", "me").Output(); err != nil || string(out) != first {
			t.Fatalf("control: the keyring says %q, %v", out, err)
		}
		agent := strings.ReplaceAll(keyringAgent, "ADDRESS", "unix:path="+d.dir+"/bus")
		ask := s.startAsking(t, keyringConfig, agent, d.as, d.env...)
		asked := 0
		got := func() (status, sent string) {
			t.Helper()
			before := len(s.servers["api.example"].got())
			asked++
			status = ask(fmt.Sprintf("https://api.example/v1/%d", asked))
			return status, s.servers["api.example"].got()[before:]
		}
		if status, sent := got(); status != "200" || !strings.Contains(sent, "Bearer "+first) {
			t.Fatalf("status %s, the server got\n%s", status, sent)
		}
		if own, err := os.ReadFile(s.file("work/own")); err != nil || strings.Contains(string(own), first) || strings.Contains(string(own), "status 0") {
			t.Errorf("the agent asked the keyring itself: %q, %v", own, err)
		}
		d.put(t, second)
		d.until(t, "the new secret", func() bool {
			status, sent := got()
			if status != "200" {
				t.Fatalf("status %s", status)
			}
			return strings.Contains(sent, "Bearer "+second)
		})
		if err := d.command("", "secret-tool", "clear", "service", "forge", "username", "me").Run(); err != nil {
			t.Fatal(err)
		}
		d.until(t, "the secret's end", func() bool {
			status, sent := got()
			if status == "503" && strings.Contains(sent, "GET") {
				t.Errorf("503, and the server got\n%s", sent)
			}
			return status == "503"
		})
	})
}
