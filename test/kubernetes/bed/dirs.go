package bed

import (
	"fmt"
	"os"
	"path/filepath"
)

// Dirs is the directory of one run. It holds everything that the cluster
// writes, and is removed with it.
type Dirs string

func (d Dirs) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

func (d Dirs) pki(name string) string { return d.path("pki", name) }
func (d Dirs) logFile(name string) string {
	return d.path("log", name+".log")
}

// Kubeconfig is the file of the cluster's administrator.
func (d Dirs) Kubeconfig() string { return d.path("pki", "admin.conf") }

// ContainerdSocket is where the run's container runtime listens.
func (d Dirs) ContainerdSocket() string { return d.path("containerd.sock") }

func (d Dirs) make() error {
	for _, sub := range []string{"pki", "log", "cni", "containerd/root", "containerd/state", "kubelet", "kubelet-pki", "pod-logs", "ipam", "volume-plugins", "etcd"} {
		if err := os.MkdirAll(d.path(sub), 0o755); err != nil {
			return fmt.Errorf("bed: making the run's directory: %w", err)
		}
	}
	return nil
}
