package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"sallyport/deploy/image/oci"
)

// imageTime is the time of everything in test images.
var imageTime = time.Unix(1_767_225_600, 0)

// File is one file of a test image: where it comes from and where it goes.
type File struct{ From, To string }

// WriteImage writes an image with the files on top of the layers, as an OCI
// archive. It runs as uid 1000.
func WriteImage(out, name string, entry []string, lower []oci.Layer, files ...File) error {
	var t oci.Tree
	t.Dir("tmp", 0o777|os.ModeSticky)
	for _, f := range files {
		data, err := os.ReadFile(f.From)
		if err != nil {
			return fmt.Errorf("bed: image %s: %w", name, err)
		}
		t.File(f.To, 0o755, data)
	}
	top, err := t.Layer(imageTime, false)
	if err != nil {
		return err
	}
	img := oci.Image{Arch: runtime.GOARCH, User: "1000:1000", Entrypoint: entry, Layers: append(lower, top),
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}}
	f, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("bed: image %s: %w", name, err)
	}
	err = oci.Write(f, oci.Archive{Name: name, Tag: name[strings.LastIndexByte(name, ':')+1:], Images: []oci.Image{img}, Created: imageTime})
	return errors.Join(err, f.Close())
}

// GoBuild builds a package of this module as a static program.
func GoBuild(ctx context.Context, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("bed: building %s: %w\n%s", pkg, err, msg)
	}
	return nil
}

// pause writes the image that holds a pod's namespaces.
func pause(ctx context.Context, d Dirs) (string, error) {
	bin, out := d.path("pause"), d.path("pause.tar")
	if err := GoBuild(ctx, bin, "sallyport/test/kubernetes/cmd/pause"); err != nil {
		return "", err
	}
	return out, WriteImage(out, pauseImage, []string{"/pause"}, nil, File{bin, "pause"})
}

// agentPackages are what a coding agent finds in its image, a database, and two
// resolvers that nothing else has.
var agentPackages = []string{
	"dash", "bash", "coreutils", "grep", "sed", "findutils", "procps", "curl", "git", "python3", "nodejs", "npm",
	"postgresql-15", "postgresql-client-15", "openjdk-17-jre-headless", "busybox-static",
}

// prunes are the parts of packages that no test reads.
var prunes = []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/i18n", "usr/include", "var/cache", "var/lib/dpkg",
	"usr/lib/*/*.a", "usr/lib/*/perl/*/CORE", "usr/lib/postgresql/15/lib/bitcode", "usr/lib/postgresql/15/lib/llvmjit*",
	"usr/lib/*/libLLVM*", "usr/lib/*/libz3*"} // the last four: PostgreSQL's compiler

// AgentImage is a cached OCI layer with a Debian userland: sh, curl, git,
// python3, node, npm, psql, PostgreSQL, java and busybox. Nothing of it is installed here.
func AgentImage(c Cache) (oci.Layer, error) {
	raw, err := os.ReadFile(filepath.Join(c.AgentDir(), "layer.tar"))
	if err != nil {
		return oci.Layer{}, fmt.Errorf("bed: agent image: %w", err)
	}
	return oci.NewLayer(raw, false)
}

func makeAgent(ctx context.Context, b *builder, dir string) error {
	root := filepath.Join(b.work, "agent")
	// packages of Debian 12 come in both forms of the merged /usr
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", d), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+d, filepath.Join(root, d)); err != nil {
			return err
		}
	}
	if err := b.closure(ctx, root, agentPackages...); err != nil {
		return err
	}
	if err := finishAgent(root); err != nil {
		return err
	}
	var t oci.Tree
	if err := t.Add(root); err != nil {
		return err
	}
	layer, err := t.Layer(imageTime, false)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "layer.tar"), layer.Data, 0o644)
}

// finishAgent does what the packages' scripts would have done, as far as a test
// needs it.
func finishAgent(root string) error {
	for _, p := range prunes {
		found, err := filepath.Glob(filepath.Join(root, p))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := os.RemoveAll(f); err != nil {
				return err
			}
		}
	}
	for name, text := range map[string]string{
		"etc/passwd":        "root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/tmp:/bin/sh\n",
		"etc/group":         "root:x:0:\nagent:x:1000:\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	local := filepath.Join(root, "usr/local/bin")
	if err := os.MkdirAll(local, 0o755); err != nil {
		return err
	}
	for dir, tools := range map[string][]string{
		"/usr/lib/postgresql/15/bin":                              {"psql", "pg_ctl", "initdb", "postgres"},
		"/usr/lib/jvm/java-17-openjdk-" + runtime.GOARCH + "/bin": {"java"},
	} {
		for _, tool := range tools {
			if err := os.Symlink(filepath.Join(dir, tool), filepath.Join(local, tool)); err != nil {
				return err
			}
		}
	}
	return nil
}

// closure unpacks packages with all that they depend on, as if nothing were
// installed on this machine.
func (b *builder) closure(ctx context.Context, root string, packages ...string) error {
	apt := filepath.Join(b.work, "apt")
	if err := os.MkdirAll(filepath.Join(apt, "partial"), 0o755); err != nil {
		return err
	}
	status := filepath.Join(apt, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return err
	}
	args := append([]string{"-qq", "-o", "Dir::State::status=" + status, "-o", "Dir::Cache::archives=" + apt,
		"-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "install", "-y", "--download-only", "--no-install-recommends"}, packages...)
	if err := b.run(ctx, apt, nil, "apt-get", args...); err != nil {
		if err := b.run(ctx, apt, nil, "apt-get", "update", "-qq"); err != nil {
			return err
		}
		if err := b.run(ctx, apt, nil, "apt-get", args...); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(filepath.Join(apt, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		// tar by hand: dpkg-deb would replace the links of the merged /usr
		cmd := `dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --keep-directory-symlink --no-same-owner`
		if err := b.run(ctx, apt, nil, "sh", "-c", cmd, "sh", deb, root); err != nil {
			return err
		}
	}
	return nil
}
