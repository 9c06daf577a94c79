package attack

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/landlock"
)

// nobody is the agent's identity when the suite is started as root.
const nobody = 65534

// The allowed programs that the agent itself may change.
const (
	replacedTool = "replaced-tool"
	deletedTool  = "deleted-tool"
)

// refusedNames are names that the policy allows, below refused.attack.test, and
// that lead where nothing may.
var refusedNames = map[string]string{
	"loop4": "127.0.0.1", "loop6": "::1", "loopmapped": "::ffff:127.0.0.1", "loopother": "127.9.8.7",
	"any4": "0.0.0.0", "any6": "::", "metadata": "169.254.169.254", "metadata6": "fd00:ec2::254", "linklocal": "fe80::1",
	"multicast": "224.0.0.1", "broadcast": "255.255.255.255", "reserved": "240.0.0.1", "private": "10.0.0.1", "shared": "100.64.0.1", "unique": "fd00::1",
	"nat64": "64:ff9b::7f00:1", "sixtofour": "2002:7f00:1::1", "teredo": "2001:0:7f00:1::1", "compatible": "::7f00:1",
}

// resolve is the table that stands for name servers.
func resolve() (map[string][]netip.Addr, error) {
	out := map[string][]netip.Addr{selfName: {netip.MustParseAddr("127.0.0.1")}}
	for name, a := range refusedNames {
		out[name+".refused.attack.test"] = []netip.Addr{netip.MustParseAddr(a)}
	}
	return out, nil
}

// systemPaths are what programs need, where they exist.
var systemPaths = []string{"/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"}

// policyText is the policy of the suite's sandboxes.
func (s *scene) policyText(extra ...string) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("version: 1")
	say("filesystem_policy:\n  include_workdir: true\n  read_write: [/dev/null]\n  read_only:")
	for _, p := range append(existing(append(systemPaths, s.spec.Tools)), extra...) {
		say("    - %s", p)
	}
	compatibility := "hard_requirement"
	if abi, err := landlock.ABI(); err != nil || abi < 6 || len(extra) > 0 {
		compatibility = "best_effort"
	}
	say("landlock: {compatibility: %s}", compatibility)
	if os.Geteuid() == 0 {
		say("process: {run_as_user: \"%d\", run_as_group: \"%d\"}", s.agent.uid, s.agent.gid)
	}
	say("network_policies:")
	say("  origin:\n    endpoints:\n      - {host: %s, port: 80, allow_uninspected_credentials: true}\n      - {host: \"*.wild.attack.test\", port: 80}\n    binaries: [{path: %q}]", originName, s.spec.Exe)
	say("  tool:\n    endpoints:\n      - {host: %s, port: 80}\n    binaries: [{path: %q}, {path: %q}, {path: %q}]", toolName,
		filepath.Join(s.spec.Tools, "other"), filepath.Join(s.spec.Workdir, replacedTool), filepath.Join(s.spec.Workdir, deletedTool))
	say("  refused:\n    endpoints:\n      - {host: %s, port: %d}", selfName, s.port)
	for _, o := range s.spec.Others {
		host, port, _ := strings.Cut(o, ":")
		say("      - {host: %s, port: %s}", host, port)
	}
	say("    binaries: [{path: %q}]", s.spec.Exe)
	say("host_services:\n  - {host: %s, port: 80, to: %q}\n  - {host: %s, port: 80, to: %q}", originName, s.origin, toolName, s.origin)
	return b.String()
}

func existing(paths []string) []string {
	var out []string
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// stageTools puts this program, and copies of it under other names, where the
// agent can run them. Root adds copies with privilege.
func stageTools(dir string) (exe string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	exe = filepath.Join(dir, "sallyport")
	for _, to := range []string{exe, filepath.Join(dir, "other")} {
		if os.Link(self, to) == nil {
			continue
		}
		if err := copyFile(self, to); err != nil {
			return "", err
		}
	}
	if os.Geteuid() != 0 {
		return exe, nil
	}
	suid, caps := filepath.Join(dir, "suid"), filepath.Join(dir, "filecap")
	if err := copyFile(self, suid); err != nil {
		return "", err
	}
	if err := copyFile(self, caps); err != nil {
		return "", err
	}
	if err := unix.Chmod(suid, 0o4755); err != nil {
		os.Remove(suid)
	}
	if err := unix.Setxattr(caps, "security.capability", fileCapability(unix.CAP_NET_BIND_SERVICE), 0); err != nil {
		os.Remove(caps)
	}
	return exe, nil
}

// fileCapability is struct vfs_cap_data, revision 2, with the effective bit.
func fileCapability(c uint) []byte {
	b := number(0x02000001)
	b = append(b, number(1<<c)...)
	return append(b, make([]byte, 12)...)
}
