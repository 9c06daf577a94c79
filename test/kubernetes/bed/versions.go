package bed

import (
	"fmt"
	"os"
	"path/filepath"
)

// Versions of what is built from Go modules. A change of one of them is a
// change of its directory in the cache, and so a new build.
const (
	Kubernetes = "1.36.3"
	Containerd = "2.4.2"
	Runc       = "1.5.2"
)

// Names and addresses inside the cluster's network namespace.
const (
	NodeName    = "node1"
	NodeAddress = "10.89.0.1"
	PodRange    = "10.88.0.0/24"
	ServiceCIDR = "10.96.0.0/16"
	APIService  = "10.96.0.1"
	Domain      = "cluster.local"
)

// Runtime is one generation of container runtime.
type Runtime struct {
	Name       string // what tests and reports call it
	Containerd string // executable
	Shim       string // directory of containerd-shim-runc-v2
	Ctr        string
	Runc       string
	CNI        string                     // directory of the CNI plugins
	Config     func(Dirs, Runtime) string // containerd's config.toml
}

// Cache is the directory that outlives a run. Everything in it can be removed
// at any time; the next run makes it again.
type Cache string

// DefaultCache is ${XDG_CACHE_HOME:-$HOME/.cache}/sallyport-e2e.
func DefaultCache() (Cache, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("bed: finding the cache directory: %w", err)
	}
	return Cache(filepath.Join(base, "sallyport-e2e")), nil
}

func (c Cache) path(elem ...string) string {
	return filepath.Join(append([]string{string(c)}, elem...)...)
}

// KubernetesDir holds the Kubernetes executables.
func (c Cache) KubernetesDir() string { return c.path("kubernetes-" + Kubernetes) }

// ContainerdDir holds the containerd that was built from Go modules.
func (c Cache) ContainerdDir() string { return c.path("containerd-" + Containerd) }

// RuncDir holds the runc that was built from Go modules.
func (c Cache) RuncDir() string { return c.path("runc-" + Runc) }

// DebianDir is a tree of unpacked Debian packages: etcd, CNI plugins, nft, and
// Debian's containerd and runc.
func (c Cache) DebianDir() string { return c.path("debian-node-2") }

// AgentDir holds the Debian userland of the agents in tests.
func (c Cache) AgentDir() string { return c.path("debian-agent-2") }

// Runtime finds a generation by its name.
func (c Cache) Runtime(name string) (Runtime, error) {
	for _, rt := range c.Runtimes() {
		if rt.Name == name {
			return rt, nil
		}
	}
	return Runtime{}, fmt.Errorf("bed: runtime %q: expected containerd-1.6 or containerd-2", name)
}

// Runtimes are the generations that this harness knows, oldest first.
func (c Cache) Runtimes() []Runtime {
	deb := c.DebianDir()
	return []Runtime{
		{
			Name:       "containerd-1.6",
			Containerd: filepath.Join(deb, "usr/bin/containerd"),
			Shim:       filepath.Join(deb, "usr/bin"),
			Ctr:        filepath.Join(deb, "usr/bin/ctr"),
			Runc:       filepath.Join(deb, "usr/sbin/runc"),
			CNI:        filepath.Join(deb, "usr/lib/cni"),
			Config:     configV2,
		},
		{
			Name:       "containerd-2",
			Containerd: filepath.Join(c.ContainerdDir(), "containerd"),
			Shim:       c.ContainerdDir(),
			Ctr:        filepath.Join(c.ContainerdDir(), "ctr"),
			Runc:       filepath.Join(c.RuncDir(), "runc"),
			CNI:        filepath.Join(deb, "usr/lib/cni"),
			Config:     configV3,
		},
	}
}
