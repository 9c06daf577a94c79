package pod

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
)

// maxSecret is in bytes; a Secret holds 1 MiB.
const maxSecret = 1 << 20

// loadPolicy reads the policy into o and has the supervisor follow its file. No
// file means no policy, and the supervisor takes its default.
func loadPolicy(file string, o *supervisor.Options) (warnings []policy.Warning, err error) {
	if file == "" {
		return nil, nil
	}
	if o.Document, err = readFile(file, policy.MaxSize); err != nil {
		return nil, refuse("is it in the ConfigMap, and the ConfigMap mounted there?", "policy: %w", err)
	}
	if o.Policy, warnings, err = supervisor.ReadPolicy(file, o.Document); err != nil {
		return warnings, refuse("sallyport policy check FILE shows the place", "policy: %w", err)
	}
	o.PolicyFile = file
	return warnings, nil
}

// loadRun reads the document that names providers; no file means none.
func loadRun(file string) (*policy.RunConfig, error) {
	if file == "" {
		return nil, nil
	}
	src, err := readFile(file, policy.MaxSize)
	if err != nil {
		return nil, refuse("is it in the ConfigMap, and the ConfigMap mounted there?", "run: %w", err)
	}
	c, err := policy.ParseRunConfig(file, src)
	if err != nil {
		return nil, refuse("", "run: %w", err)
	}
	return c, nil
}

// checkSecrets reads every credential once: a Secret that is missing or cannot
// be read is told now, not when the agent first needs it.
func checkSecrets(dir string) error {
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return refuse("is the Secret mounted there?", "secrets: %w", plain(err))
	}
	found := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue // how a kubelet swaps a volume's contents at once
		}
		if _, err := readFile(filepath.Join(dir, e.Name()), maxSecret); err != nil {
			return refuse("a Secret's volume needs a mode that the pod's user can read, such as 0444", "secrets: %w", err)
		}
		found++
	}
	if found == 0 {
		return refuse("create the Secret in the pod's namespace: kubectl create secret generic NAME --from-literal=KEY=VALUE",
			"secrets: %s is empty: the Secret does not exist or has no key", dir)
	}
	return nil
}

// checkWorkdir sees whether the agent will be able to work: the platform chooses
// the user, and a volume may belong to somebody else.
func checkWorkdir(dir string, p *policy.Policy) error {
	if dir == "" || p != nil && !p.Filesystem.IncludeWorkdir {
		return nil
	}
	err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return refuse("mount a volume there, such as an emptyDir", "working directory %s: does not exist", dir)
	}
	return refuse("mount an emptyDir there, or set fsGroup to a group that owns the volume",
		"working directory %s: uid %d cannot write there: %w", dir, os.Getuid(), err)
}

// checkPrivate refuses a policy that grants what belongs to the supervisor. Both
// run as one user, so that nothing but the policy keeps the agent out.
func checkPrivate(private []string, workdir string, p *policy.Policy) error {
	if p == nil {
		p = policy.Default()
	}
	grants := map[string]string{}
	if p.Filesystem.IncludeWorkdir && workdir != "" {
		grants[workdir] = "the working directory"
	}
	for _, g := range append(append([]string{}, p.Filesystem.ReadOnly...), p.Filesystem.ReadWrite...) {
		grants[g] = "filesystem_policy"
	}
	for _, g := range p.Sockets.Unix {
		grants[g] = "sockets.unix"
	}
	for g, who := range grants {
		for _, own := range private {
			if reaches(g, own) {
				return refuse("grant narrower paths", "policy: %s grants %s, but %s belongs to the supervisor", who, g, own)
			}
		}
	}
	return nil
}

// reaches tells whether two paths are in one line of descent, as they are
// written or as the kernel sees them: a grant may be a symbolic link.
func reaches(a, b string) bool {
	for _, x := range []string{filepath.Clean(a), resolved(a)} {
		for _, y := range []string{filepath.Clean(b), resolved(b)} {
			if covers(x, y) || covers(y, x) {
				return true
			}
		}
	}
	return false
}

func resolved(p string) string {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		return real
	}
	return filepath.Clean(p)
}

func covers(dir, p string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
}

// copySelf puts this program into dir under the name base, for the containers
// that share the volume. It appears whole or not at all.
func copySelf(dir, base string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("reading this program: %w", plain(err))
	}
	defer self.Close()
	const hint = "mount an emptyDir there that is large enough"
	f, err := os.CreateTemp(dir, ".sallyport-")
	if err != nil {
		return refuse(hint, "copying to %s: %w", dir, plain(err))
	}
	defer os.Remove(f.Name()) // of no effect once it has its name
	_, err = io.Copy(f, self)
	err = errors.Join(err, f.Chmod(0o755), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, base))
	}
	if err != nil {
		return refuse(hint, "copying to %s: %w", dir, plain(err))
	}
	return nil
}
