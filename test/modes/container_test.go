package modes

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

// Capabilities of a container: what engines give by default, and the two that
// namespace mode needs beside them.
var (
	usualCaps = strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID " +
		"CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE")
	addedCaps = append([]string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}, usualCaps...)
)

// usualProfile refuses what engines' default profiles refuse of namespaces to
// who lacks CAP_SYS_ADMIN.
var usualProfile = map[string]any{
	"defaultAction": "SCMP_ACT_ALLOW",
	"syscalls": []any{map[string]any{
		"names": []string{"unshare", "setns", "mount", "umount2", "pivot_root", "move_mount", "fsopen"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
	}},
}

// TestContainer starts sandboxes in a real container, made by runc from the
// host's programs: each mode holds there, or is refused in a sentence, and the
// automatic choice is the one that holds.
func TestContainer(t *testing.T) {
	testkit.Require(t, testkit.Program("runc"))
	const inside, outside = "eth0:", "lo:" // the agent's interfaces
	for _, box := range []struct {
		name    string
		caps    []string
		profile map[string]any
		says    map[policy.Mode]string // and starts, if it is one of the two above
	}{
		{"default", usualCaps, usualProfile, map[policy.Mode]string{
			policy.Platform: outside, policy.ModeUnset: "note: platform mode: namespace mode " + cannot,
			policy.Namespace: cannot, policy.UserNS: "does not let a user make a user namespace",
		}},
		{"capabilities_added", addedCaps, nil, map[policy.Mode]string{
			policy.Platform: outside, policy.ModeUnset: inside, policy.Namespace: inside, policy.UserNS: outside,
		}},
		{"capabilities_without_a_profile_for_them", addedCaps, usualProfile, map[policy.Mode]string{
			policy.Platform: outside, policy.ModeUnset: "note: platform mode: this container does not let even root",
			policy.Namespace: "this container does not let even root", policy.UserNS: "does not let a user make a user namespace",
		}},
	} {
		t.Run(box.name, func(t *testing.T) {
			testkit.Netns(t, func(t *testing.T) {
				b := newBench(t)
				for mode, want := range box.says {
					out, status := b.contain(t, box.caps, box.profile, sandbox{Mode: mode, Notes: true, Command: []string{"cat", "/proc/self/net/dev"}})
					starts := want == inside || want == outside || mode == policy.ModeUnset
					if !strings.Contains(out, want) || (status == 0) != starts || status != 0 && status != 125 {
						t.Errorf("mode %q: status = %d, want it to start: %v, and %q:\n%s", mode, status, starts, want, out)
					}
					if starts && strings.Contains(out, inside) != (want == inside) {
						t.Errorf("mode %q: another network than expected:\n%s", mode, out)
					}
					if !starts && !strings.Contains(out, "hint: ") {
						t.Errorf("mode %q: no remedy:\n%s", mode, out)
					}
				}
			})
		})
	}
}

// contain runs a supervisor as root of a container, to its end.
func (b *bench) contain(t *testing.T, caps []string, profile map[string]any, s sandbox) (out string, status int) {
	t.Helper()
	dir, err := os.MkdirTemp(b.dir, "box-")
	if err != nil {
		t.Fatal(err)
	}
	s.Workdir = b.workdir(t)
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := furnishRoot(dir+"/root", b.dir)
	if err != nil {
		t.Fatal(err)
	}
	sets := map[string]any{}
	for _, set := range []string{"bounding", "effective", "permitted"} {
		sets[set] = caps
	}
	linux := map[string]any{
		"namespaces":    []any{ns("pid"), ns("ipc"), ns("uts"), ns("mount"), ns("network")},
		"readonlyPaths": []string{"/proc/sys", "/proc/sysrq-trigger"}, "maskedPaths": []string{"/proc/kcore", "/proc/keys"},
	}
	if profile != nil {
		linux["seccomp"] = profile
	}
	config, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2", "root": map[string]any{"path": "root"}, "mounts": mounts, "linux": linux,
		"process": map[string]any{
			"user": map[string]any{"uid": 0, "gid": 0}, "cwd": "/", "args": []string{b.exe}, "capabilities": sets,
			"env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", supervisorVar + "=" + string(raw)},
		},
	})
	if err == nil {
		err = os.WriteFile(dir+"/config.json", config, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(b.dir) + filepath.Base(dir)
	runc := func(args ...string) *exec.Cmd {
		return exec.Command("runc", append([]string{"--root", dir + "/state"}, args...)...)
	}
	t.Cleanup(func() { runc("delete", "--force", name).Run() })
	var text bytes.Buffer
	c := runc("run", "--bundle", dir, name)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // which it passes on
	c.Stdout, c.Stderr = &text, &text
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return text.String(), c.ProcessState.ExitCode()
}

func ns(kind string) map[string]string { return map[string]string{"type": kind} }

// furnishRoot makes the root of a container out of the host's programs, which it
// may read, and a directory that is its own.
func furnishRoot(root, own string) (mounts []any, err error) {
	bind := func(path, how string) {
		mounts = append(mounts, map[string]any{"destination": path, "source": path, "type": "bind", "options": []string{"rbind", how}})
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	mounts = append(mounts, map[string]any{"destination": "/proc", "source": "proc", "type": "proc"},
		map[string]any{"destination": "/tmp", "source": "tmpfs", "type": "tmpfs"},
		map[string]any{"destination": "/dev", "source": "tmpfs", "type": "tmpfs", "options": []string{"nosuid", "mode=755"}})
	for _, p := range []string{"/usr", "/etc", "/bin", "/lib", "/lib64"} {
		to, err := os.Readlink(p)
		switch {
		case err == nil: // merged into /usr
			if err := os.Symlink(to, root+p); err != nil {
				return nil, err
			}
		case !errors.Is(err, os.ErrNotExist):
			bind(p, "ro")
		}
	}
	bind(own, "rw")
	return mounts, nil
}
