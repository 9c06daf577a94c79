package modes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

// The owner of root's files, as the agent sees it, is what keeps user namespaces
// from being anybody's mode unasked (ADR 31): OpenSSH refuses an included
// configuration file that is neither root's nor the user's, and git with it. If
// this test fails because they work, the decision is to be made anew. Who is
// nobody (65534) does not notice: everybody's files look like its own.
func TestOwnersInUserNamespaces(t *testing.T) {
	testkit.Require(t, testkit.Program("ssh"), testkit.Program("git"))
	testkit.Netns(t, func(t *testing.T) {
		b := newBench(t)
		config, included := filepath.Join(b.dir, "ssh_config"), filepath.Join(b.dir, "included.conf")
		for name, text := range map[string]string{config: "Include " + included + "\n", included: "Host far.test\n  HostName 192.0.2.7\n  ProxyCommand true\n"} {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text := fmt.Sprintf("version: 1\nfilesystem_policy:\n  include_workdir: true\n  read_only: [/usr, /bin, /lib, /lib64, /etc, /proc, %s]\n  read_write: [/dev/null]\n", b.dir)
		const refuses = "Bad owner or permissions on "
		for _, tt := range []struct{ what, script, works string }{
			{"ssh", "ssh -F " + config + " -G far.test", "hostname 192.0.2.7"},
			{"git", "GIT_SSH_COMMAND='ssh -F " + config + "' git ls-remote ssh://far.test/repository", "Connection closed by remote host"},
		} {
			for mode, want := range map[policy.Mode]string{policy.ModeUnset: tt.works, policy.UserNS: refuses + included} {
				out, _ := b.try(t, daemon, sandbox{Mode: mode, Policy: text, Command: []string{"sh", "-c", tt.script}})
				if !strings.Contains(out, want) || mode == policy.ModeUnset && strings.Contains(out, refuses) {
					t.Errorf("%s, mode %q: want %q:\n%s", tt.what, mode, want, out)
				}
			}
		}
	})
}

// No mapping that a user may write avoids that: the kernel takes the user's own
// number, once, and nothing beside it (user_namespaces(7)).
func TestUsersMapOnlyThemselves(t *testing.T) {
	testkit.Nobody(t, func(t *testing.T) {
		me := os.Getuid()
		for _, tt := range []struct {
			name string
			maps []syscall.SysProcIDMap
			ok   bool
		}{
			{"oneself", []syscall.SysProcIDMap{{ContainerID: me, HostID: me, Size: 1}}, true},
			{"oneself as root", []syscall.SysProcIDMap{{ContainerID: 0, HostID: me, Size: 1}}, true},
			{"root", []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}, false},
			{"root beside oneself", []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: me, HostID: me, Size: 1}}, false},
			{"everybody", []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 31}}, false},
			{"oneself twice", []syscall.SysProcIDMap{{ContainerID: me, HostID: me, Size: 1}, {ContainerID: 0, HostID: me, Size: 1}}, false},
		} {
			c := exec.Command("true")
			c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: tt.maps}
			if err := c.Run(); (err == nil) != tt.ok {
				t.Errorf("mapping %s: %v, want it taken: %v", tt.name, err, tt.ok)
			}
		}
	})
}
