package bed

import (
	"fmt"
	"os"
	"strings"
)

// pauseImage is the name under which every run finds its pause image.
const pauseImage = "bed.local/pause:1"

func kubeconfig(d Dirs, user string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: bed, cluster: {server: "https://127.0.0.1:6443", certificate-authority: %[1]s}}]
users: [{name: %[2]s, user: {client-certificate: %[3]s, client-key: %[4]s}}]
contexts: [{name: bed, context: {cluster: bed, user: %[2]s}}]
current-context: bed
`, d.pki("ca.crt"), user, d.pki(user+".crt"), d.pki(user+".key"))
}

// kubeletConfig is for a node whose cgroups may be of the first version and
// whose root may lack CAP_SYS_RESOURCE, as inside many virtual machines.
func kubeletConfig(d Dirs, cgroupRoot string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
port: 10250
readOnlyPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[1]s}}
authorization: {mode: Webhook}
tlsCertFile: %[2]s
tlsPrivateKeyFile: %[3]s
cgroupDriver: cgroupfs
cgroupRoot: %[4]s
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
containerRuntimeEndpoint: unix://%[5]s
evictionHard: {memory.available: "50Mi", nodefs.available: "0%%", imagefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
podLogsDir: %[6]s
volumePluginDir: %[7]s
clusterDNS: [%[8]s]
clusterDomain: %[9]s
podPidsLimit: 512
syncFrequency: 5s
nodeStatusUpdateFrequency: 5s
`, d.pki("ca.crt"), d.pki("kubelet.crt"), d.pki("kubelet.key"), cgroupRoot, d.ContainerdSocket(),
		d.path("pod-logs"), d.path("volume-plugins"), NodeAddress, Domain)
}

// cniConfig gives each pod a link of its own to the node, so that every packet
// is routed and service addresses work without bridge netfilter.
func cniConfig(d Dirs) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"bed","plugins":[
 {"type":"ptp","ipMasq":false,
  "ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
`, d.path("ipam"), PodRange)
}

// auditPolicy keeps what pod security has to say about pods, and nothing else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, verbs: [create], resources: [{group: "", resources: [pods]}]}
- {level: None}
`

const configBoth = `root = "ROOT/containerd/root"
state = "ROOT/containerd/state"
[grpc]
  address = "SOCKET"
`

// configV2 is for containerd 1.x. restrict_oom_score_adj: root without
// CAP_SYS_RESOURCE may not lower a score.
func configV2(d Dirs, rt Runtime) string {
	return expand(d, rt, "version = 2\n"+configBoth+`[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "CNI"
    conf_dir = "ROOT/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = "RUNC"
`)
}

// configV3 is for containerd 2.x.
func configV3(d Dirs, rt Runtime) string {
	return expand(d, rt, "version = 3\n"+configBoth+`[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "PAUSE"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["CNI"]
    conf_dir = "ROOT/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = "RUNC"
`)
}

func expand(d Dirs, rt Runtime, text string) string {
	return strings.NewReplacer("ROOT", string(d), "SOCKET", d.ContainerdSocket(), "PAUSE", pauseImage,
		"RUNC", rt.Runc, "CNI", rt.CNI).Replace(text)
}

func writeConfigs(d Dirs, rt Runtime, cgroupRoot string) error {
	for file, text := range map[string]string{
		"audit.yaml":             auditPolicy,
		"kubelet.yaml":           kubeletConfig(d, cgroupRoot),
		"cni/10-bed.conflist":    cniConfig(d),
		"containerd/config.toml": rt.Config(d, rt),
	} {
		if err := os.WriteFile(d.path(file), []byte(text), 0o600); err != nil {
			return fmt.Errorf("bed: %w", err)
		}
	}
	return nil
}
