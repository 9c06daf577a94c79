package stage

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/internal/testkit"
)

// userNamespaces requires a host that lets this user make them.
func userNamespaces() testkit.Requirement {
	return testkit.Requirement{Name: "user namespaces", Check: func() error {
		b, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
		if err == nil && strings.TrimSpace(string(b)) == "0" {
			err = errors.New("user.max_user_namespaces is 0")
		}
		return err
	}}
}

const ownScript = `readlink /proc/self/ns/user /proc/self/ns/net
id -u; id -g; tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map; cat /proc/self/setgroups
grep ^Cap /proc/self/status; tail -n +3 /proc/self/net/dev | cut -d: -f1; ls /proc/self/fd | tr '\n' ' '`

// The agent is in namespaces of its own, as the same user, without a capability
// in any set, with a loopback interface that is up and nothing else.
func TestOwnNamespaces(t *testing.T) {
	testkit.Require(t, userNamespaces())
	testkit.Nobody(t, func(t *testing.T) {
		p, out := launch(t, func(s *Spec) { s.Own = true }, "sh", "-c", ownScript)
		got := strings.Split(strings.TrimSpace(out()), "\n")
		if st, err := p.Wait(); err != nil || st.ExitStatus() != 0 || len(got) < 13 {
			t.Fatalf("status %#x, %v, output %q", st, err, got)
		}
		for i, kind := range []string{"user", "net"} {
			own, err := os.Readlink("/proc/self/ns/" + kind)
			if err != nil || got[i] == own || !strings.HasPrefix(got[i], kind+":[") {
				t.Errorf("%s namespace %q, the test's is %q", kind, got[i], own)
			}
		}
		uid, gid := os.Getuid(), os.Getgid()
		want := []string{fmt.Sprint(uid), fmt.Sprint(gid), fmt.Sprintf(" %d %d 1", uid, uid), fmt.Sprintf(" %d %d 1", gid, gid), "deny"}
		for _, set := range []string{"Inh", "Prm", "Eff", "Bnd", "Amb"} {
			want = append(want, "Cap"+set+":\t0000000000000000")
		}
		want = append(want, "    lo", "0 1 2 3 ")
		for i, w := range want {
			if g := got[i+2]; strings.TrimSpace(g) != strings.TrimSpace(w) {
				t.Errorf("line %d is %q, want %q", i+2, g, w)
			}
		}
		// Raised: the flags that SIOCGIFFLAGS gave at the start.
		p, out = launch(t, func(s *Spec) { s.Own = true }, "sh", "-c", "cat /proc/net/route; cat /proc/self/net/fib_trie")
		text := out()
		p.Wait()
		if !strings.Contains(text, "127.0.0.1") {
			t.Errorf("the loopback interface is down: %q", text)
		}
	})
}

// Where a host does not let a user have them, the step says so.
func TestOwnNamespacesRefused(t *testing.T) {
	testkit.RunInSubprocess(t, func(t *testing.T) {
		// A process with another root directory may make none, user_namespaces(7).
		testkit.Require(t, testkit.Root(), userNamespaces())
		dir := t.TempDir()
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		if err := errors.Join(unix.Chdir("/"), unix.Chroot(dir)); err != nil {
			t.Fatal(err)
		}
		_, err = Start(Spec{Own: true, Path: "/nothing", Args: []string{"x"}, Dir: "/", Stdio: [3]*os.File{null, null, null}, Ruleset: -1, GuardRuleset: -1})
		var step *StepError
		if !errors.As(err, &step) || step.Step != StepNamespaces || step.Errno != unix.EPERM {
			t.Errorf("Start = %v, want %q refused with EPERM", err, StepNamespaces)
		}
		if err := unix.Chroot("."); err != nil { // so that the directory can be removed
			t.Error(err)
		}
	})
}
