package bed

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func (n *node) kubernetes(name string) string { return filepath.Join(n.Cache.KubernetesDir(), name) }

// controlPlane starts etcd, the API server and the container runtime. Images
// are loaded beside everything that follows, because that takes longest.
func (n *node) controlPlane() error {
	if err := n.connect(); err != nil {
		return err
	}
	d := n.Dirs
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	if err := n.daemon(filepath.Join(n.Cache.DebianDir(), "usr/bin/etcd"), "--data-dir", d.path("etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		"--unsafe-no-fsync", "--log-level", "warn"); err != nil {
		return err
	}
	if err := n.daemon(n.kubernetes("kube-apiserver"),
		"--etcd-servers="+client, "--secure-port=6443", "--bind-address=0.0.0.0", "--advertise-address="+NodeAddress,
		"--tls-cert-file="+d.pki("apiserver.crt"), "--tls-private-key-file="+d.pki("apiserver.key"), "--client-ca-file="+d.pki("ca.crt"),
		"--kubelet-client-certificate="+d.pki("admin.crt"), "--kubelet-client-key="+d.pki("admin.key"),
		"--kubelet-certificate-authority="+d.pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+d.pki("sa.pub"),
		"--service-account-signing-key-file="+d.pki("sa.key"), "--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction", "--service-cluster-ip-range="+ServiceCIDR,
		"--audit-policy-file="+d.path("audit.yaml"), "--audit-log-path="+d.path("log", "audit.json")); err != nil {
		return err
	}
	if err := n.daemon(n.runtime.Containerd, "-c", d.path("containerd/config.toml")); err != nil {
		return err
	}
	if err := n.until("container runtime answers", 3*time.Minute, func() bool { return n.ctr("version") == nil }); err != nil {
		return err
	}
	n.loaded = make(chan error, 1)
	go func() { n.loaded <- n.loadImages() }()
	return n.until("api server is ready", 3*time.Minute, func() bool { _, err := n.get("/readyz"); return err == nil })
}

func (n *node) loadImages() error {
	for _, img := range n.Images {
		if err := n.ctr("images", "import", img); err != nil {
			return err
		}
	}
	n.say("%d images loaded", len(n.Images))
	return nil
}

func (n *node) ctr(args ...string) error {
	out, err := exec.Command(n.runtime.Ctr, append([]string{"-a", n.Dirs.ContainerdSocket(), "-n", "k8s.io"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("bed: ctr %v: %w: %s", args, err, tail(string(out), 5))
	}
	return nil
}

// join starts the rest and waits for a node that takes pods.
func (n *node) join() error {
	d := n.Dirs
	conf := func(who string) string { return "--kubeconfig=" + d.pki(who+".conf") }
	quiet := []string{"--leader-elect=false", "--bind-address=127.0.0.1"}
	daemons := [][]string{
		append([]string{"kube-controller-manager", conf("controller-manager"), "--service-account-private-key-file=" + d.pki("sa.key"),
			"--root-ca-file=" + d.pki("ca.crt"), "--use-service-account-credentials=true"}, quiet...),
		append([]string{"kube-scheduler", conf("scheduler")}, quiet...),
		{"kube-proxy", conf("proxy"), "--proxy-mode=nftables", "--hostname-override=" + NodeName, "--cluster-cidr=" + PodRange,
			"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"},
		{"kubelet", conf("kubelet"), "--config=" + d.path("kubelet.yaml"), "--hostname-override=" + NodeName, "--node-ip=" + NodeAddress,
			"--root-dir=" + d.path("kubelet"), "--cert-dir=" + d.path("kubelet-pki")},
	}
	for _, args := range daemons {
		if err := n.daemon(n.kubernetes(args[0]), args[1:]...); err != nil {
			return err
		}
	}
	if err := n.until("node is ready", 3*time.Minute, n.nodeReady); err != nil {
		return err
	}
	err := n.until("service account exists", 3*time.Minute, func() bool {
		_, err := n.get("/api/v1/namespaces/default/serviceaccounts/default")
		return err == nil
	})
	if err != nil {
		return err
	}
	return <-n.loaded
}

func (n *node) nodeReady() bool {
	raw, err := n.get("/api/v1/nodes/" + NodeName)
	if err != nil {
		return false
	}
	var got struct {
		Status struct {
			Conditions []struct{ Type, Status string }
		}
	}
	if json.Unmarshal(raw, &got) != nil {
		return false
	}
	for _, c := range got.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// connect prepares a client of the API server that is the administrator.
func (n *node) connect() error {
	cert, err := tls.LoadX509KeyPair(n.Dirs.pki("admin.crt"), n.Dirs.pki("admin.key"))
	if err != nil {
		return fmt.Errorf("bed: %w", err)
	}
	ca, err := os.ReadFile(n.Dirs.pki("ca.crt"))
	if err != nil {
		return fmt.Errorf("bed: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	n.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots},
	}}
	return nil
}

func (n *node) get(path string) ([]byte, error) {
	resp, err := n.client.Get("https://127.0.0.1:6443" + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("bed: %s: %s", path, resp.Status)
	}
	return body, err
}
