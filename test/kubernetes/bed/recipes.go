package bed

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// makeKubernetes builds the node's and the control plane's executables. The
// module k8s.io/kubernetes cannot be installed by `go install`, because its
// go.mod replaces k8s.io/* by directories of its own repository. A module of
// ours with the same requirements, and the published k8s.io/* in their place,
// gives the same program.
func makeKubernetes(ctx context.Context, b *builder, dir string) error {
	src := filepath.Join(b.work, "kubernetes")
	if err := os.MkdirAll(src, 0o755); err != nil {
		return err
	}
	mod, err := b.kubernetesModule(ctx, src)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(src, "go.mod"), []byte(mod), 0o644); err != nil {
		return err
	}
	pkg := "k8s.io/component-base/version"
	minor := strings.Split(Kubernetes, ".")[1]
	ld := fmt.Sprintf("-s -w -X %[1]s.gitVersion=v%[2]s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=%[3]s", pkg, Kubernetes, minor)
	args := []string{"build", "-trimpath", "-ldflags", ld, "-o", dir + "/"}
	for _, c := range []string{"kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"} {
		args = append(args, "k8s.io/kubernetes/cmd/"+c)
	}
	return b.run(ctx, src, nil, "go", args...)
}

func (b *builder) kubernetesModule(ctx context.Context, src string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "k8s.io/kubernetes@v"+Kubernetes)
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "GOMODCACHE="+filepath.Join(b.work, "mod"), "GOWORK=off", "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("downloading k8s.io/kubernetes: %w", err)
	}
	var got struct{ GoMod string }
	if err := json.Unmarshal(out, &got); err != nil {
		return "", err
	}
	raw, err := os.ReadFile(got.GoMod)
	if err != nil {
		return "", err
	}
	return rewriteModule(string(raw)), nil
}

// rewriteModule turns Kubernetes' own go.mod into one that requires it.
func rewriteModule(mod string) string {
	published := "v0." + strings.SplitN(Kubernetes, ".", 2)[1]
	var out strings.Builder
	for line := range strings.Lines(mod) {
		text := strings.TrimSpace(line)
		switch name, local, ok := strings.Cut(text, " => ./staging/src/"); {
		case strings.HasPrefix(text, "module "):
			out.WriteString("module bed.local/kubernetes\n")
		case ok:
			name = strings.TrimPrefix(name, "replace ")
			fmt.Fprintf(&out, "\t%s => %s %s\n", name, local, published)
		default:
			out.WriteString(line)
		}
	}
	fmt.Fprintf(&out, "\nrequire k8s.io/kubernetes v%s\n", Kubernetes)
	return out.String()
}

func makeContainerd(ctx context.Context, b *builder, dir string) error {
	base := "github.com/containerd/containerd/v2"
	ld := "-s -w -X " + base + "/version.Version=v" + Containerd
	for _, c := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		err := b.run(ctx, b.work, []string{"GOBIN=" + dir}, "go", "install", "-trimpath",
			"-tags", "no_btrfs no_devmapper no_zfs no_tracing", "-ldflags", ld, base+"/cmd/"+c+"@v"+Containerd)
		if err != nil {
			return err
		}
	}
	return nil
}

// makeRunc builds a static runc against Debian's libseccomp, unpacked into the
// build directory: the machine keeps no new package.
func makeRunc(ctx context.Context, b *builder, dir string) error {
	sec := filepath.Join(b.work, "libseccomp")
	if err := b.unpack(ctx, sec, "libseccomp-dev"); err != nil {
		return err
	}
	libs, err := filepath.Glob(filepath.Join(sec, "usr/lib/*/libseccomp.a"))
	if err != nil || len(libs) != 1 {
		return fmt.Errorf("libseccomp.a: found %d, expected 1", len(libs))
	}
	lib := filepath.Dir(libs[0])
	shim := filepath.Join(b.work, "pkg-config")
	script := fmt.Sprintf("#!/bin/sh\ncase $* in *--cflags*) echo -I%s/usr/include ;; *) echo -L%s -lseccomp ;; esac\n", sec, lib)
	if err := os.WriteFile(shim, []byte(script), 0o755); err != nil {
		return err
	}
	env := []string{"GOBIN=" + dir, "CGO_ENABLED=1", "PKG_CONFIG=" + shim}
	return b.run(ctx, b.work, env, "go", "install", "-trimpath", "-tags", "seccomp netgo osusergo",
		"-ldflags", "-s -w -X main.version="+Runc+" -extldflags -static", "github.com/opencontainers/runc@v"+Runc)
}

// makeDebian unpacks what a node needs, and nft with its libraries: kube-proxy
// calls it, and the machine need not have it.
func makeDebian(ctx context.Context, b *builder, dir string) error {
	err := b.unpack(ctx, dir, "containerd", "runc", "etcd-server", "containernetworking-plugins",
		"nftables", "libnftables1", "libmnl0", "libnftnl11", "libxtables12", "libjansson4", "libedit2", "libbsd0", "libmd0")
	if err != nil {
		return err
	}
	const script = "#!/bin/sh\nroot=$(dirname \"$0\")\nexport LD_LIBRARY_PATH=$(echo \"$root\"/usr/lib/*-linux-gnu):$(echo \"$root\"/lib/*-linux-gnu)\nexec \"$root/usr/sbin/nft\" \"$@\"\n"
	return os.WriteFile(filepath.Join(dir, "nft"), []byte(script), 0o755)
}

// unpack downloads Debian packages and unpacks them below dir. Nothing is
// installed.
func (b *builder) unpack(ctx context.Context, dir string, packages ...string) error {
	deb, err := os.MkdirTemp(b.work, "deb-")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := b.run(ctx, deb, nil, "apt-get", append([]string{"download", "-qq"}, packages...)...); err != nil {
		if err := b.run(ctx, deb, nil, "apt-get", "update", "-qq"); err != nil {
			return err
		}
		if err := b.run(ctx, deb, nil, "apt-get", append([]string{"download", "-qq"}, packages...)...); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(deb, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := b.run(ctx, deb, nil, "dpkg-deb", "-x", f, dir); err != nil {
			return err
		}
	}
	return nil
}
