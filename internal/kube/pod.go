package kube

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Objects are what a manifest holds, in the order in which they are applied.
type Objects []any

// Build makes the objects. It is pure; the error names every option that does
// not fit.
func Build(o Options) (Objects, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	config, err := o.configMap()
	if err != nil {
		return nil, err
	}
	return Objects{config, o.networkPolicy(), o.pod()}, nil
}

func (o Options) meta() objectMeta {
	return objectMeta{Name: o.Name, Namespace: o.Namespace, Labels: o.labels()}
}

// labels select the pod of this manifest and no other.
func (o Options) labels() map[string]string {
	return map[string]string{
		"app.kubernetes.io/name":       "sallyport",
		"app.kubernetes.io/instance":   o.Name,
		"app.kubernetes.io/managed-by": "sallyport",
	}
}

// supervisorConfig is the supervisor's configuration file. Its reader is in
// internal/pod, which refuses what it does not know.
type supervisorConfig struct {
	Policy     string   `json:"policy,omitempty"`
	Run        string   `json:"run,omitempty"`
	UpstreamCA string   `json:"upstream_ca,omitempty"`
	Workdir    string   `json:"workdir"`
	Secrets    string   `json:"secrets,omitempty"`
	Health     string   `json:"health"`
	Grace      string   `json:"grace"`
	Events     string   `json:"events,omitempty"`
	Env        []string `json:"env,omitempty"`
	Private    []string `json:"private"`
}

// File names inside ConfigDir.
const (
	configFile = "supervisor.json"
	policyFile = "policy.yaml"
	runFile    = "run.yaml"
	caFile     = "upstream-ca.pem"
)

func (o Options) configMap() (configMap, error) {
	c := supervisorConfig{
		Workdir: o.Workdir, Health: fmt.Sprintf(":%d", HealthPort), Events: o.Events, Env: o.Env, Private: []string{Root},
		// the kubelet kills everything when the grace period ends: be earlier
		Grace: fmt.Sprintf("%ds", o.Grace-2),
	}
	m := configMap{typeMeta{"v1", "ConfigMap"}, o.meta(), map[string]string{}}
	for _, f := range []struct {
		text, name string
		key        *string
	}{{o.Policy, policyFile, &c.Policy}, {o.Run, runFile, &c.Run}, {o.UpstreamCA, caFile, &c.UpstreamCA}} {
		if f.text != "" {
			m.Data[f.name], *f.key = f.text, ConfigDir+"/"+f.name
		}
	}
	if o.Secret != "" {
		c.Secrets = SecretDir
	}
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return m, fmt.Errorf("kube: %w", err)
	}
	m.Data[configFile] = string(raw) + "\n"
	return m, nil
}

func (o Options) pod() pod {
	p := pod{typeMeta{"v1", "Pod"}, o.meta(), podSpec{
		RestartPolicy:                 "Never",
		TerminationGracePeriodSeconds: o.Grace,
		HostUsers:                     o.HostUsers,
		// a name with a dot is asked as it is: search domains would only turn
		// one question of the agent into six
		DNSConfig: dnsConfig{[]nameValue{{"ndots", "1"}}},
		SecurityContext: podSecurityContext{
			RunAsNonRoot: true, SeccompProfile: seccompProfile{"RuntimeDefault"},
		},
		Containers: []container{o.agent()},
		Volumes:    o.volumes(),
	}}
	if o.InImage == "" {
		p.Spec.InitContainers = []container{o.injector()}
	}
	if o.LowPort != 0 && o.LowPort < firstFreePort {
		p.Spec.SecurityContext.Sysctls = []nameValue{{"net.ipv4.ip_unprivileged_port_start", fmt.Sprint(o.LowPort)}}
	}
	if o.RunAsUser != 0 {
		p.Spec.SecurityContext.RunAsUser = &o.RunAsUser
	}
	if o.ShareProcesses {
		p.Spec.ShareProcessNamespace = &o.ShareProcesses
	}
	return p
}

// firstFreePort is the first port that a user without privilege may listen on,
// unless the pod says otherwise: that is one of the sysctls that the restricted
// standard calls safe. containerd 2 says otherwise by itself.
const firstFreePort = 1024

// restricted is the security context of every container.
func restricted() containerSecurityContext {
	return containerSecurityContext{ReadOnlyRootFilesystem: true, Capabilities: capabilities{[]string{"ALL"}}}
}

// injector copies the supervisor into the pod, so that the agent's image needs
// no change.
func (o Options) injector() container {
	return container{
		Name: "sallyport", Image: o.Supervisor, ImagePullPolicy: o.PullPolicy,
		Command:                  []string{"/sallyport-supervisor", "copy-self", BinDir},
		Resources:                resources{map[string]string{"cpu": "10m", "memory": "32Mi"}, map[string]string{"cpu": "500m", "memory": "64Mi"}},
		SecurityContext:          restricted(),
		TerminationMessagePolicy: "FallbackToLogsOnError",
		VolumeMounts:             []volumeMount{{Name: "sallyport-bin", MountPath: BinDir}},
	}
}

// supervisor is the path of the program that the agent's container starts.
func (o Options) supervisor() string {
	if o.InImage != "" {
		return o.InImage
	}
	return BinDir + "/sallyport-supervisor"
}

// unexpanded protects arguments from the kubelet, which replaces $(NAME) by a
// variable and $$ by $.
func unexpanded(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = strings.ReplaceAll(a, "$", "$$")
	}
	return out
}

func (o Options) agent() container {
	c := container{
		Name: "agent", Image: o.Image, ImagePullPolicy: o.PullPolicy,
		Command: []string{o.supervisor(), "run", "--config", ConfigDir + "/" + configFile, "--"},
		Args:    unexpanded(o.Command),
		Env:     []nameValue{{"HOME", o.Workdir}},
		Ports:   []containerPort{{"health", HealthPort}},
		// live: the supervisor can still hold the agent; ready: the agent runs
		LivenessProbe:  &probe{httpGet{"/livez", "health"}, 10, 2, 3},
		ReadinessProbe: &probe{httpGet{"/readyz", "health"}, 5, 2, 1},
		Resources: resources{
			map[string]string{"cpu": "100m", "memory": "128Mi"},
			map[string]string{"cpu": o.CPU, "memory": o.Memory},
		},
		SecurityContext:          restricted(),
		TerminationMessagePolicy: "FallbackToLogsOnError",
		VolumeMounts: []volumeMount{
			{Name: "sallyport-config", MountPath: ConfigDir, ReadOnly: true},
			{Name: "work", MountPath: o.Workdir},
		},
	}
	if o.InImage == "" {
		c.VolumeMounts = append([]volumeMount{{Name: "sallyport-bin", MountPath: BinDir, ReadOnly: true}}, c.VolumeMounts...)
	}
	if o.Workdir != "/tmp" {
		c.VolumeMounts = append(c.VolumeMounts, volumeMount{Name: "tmp", MountPath: "/tmp"})
	}
	if o.Secret != "" {
		c.VolumeMounts = append(c.VolumeMounts, volumeMount{Name: "sallyport-secrets", MountPath: SecretDir, ReadOnly: true})
	}
	return c
}

// volumes are readable by every user: whoever the platform chooses must be able
// to read them, and the policy, not the mode, keeps the agent out.
func (o Options) volumes() []volume {
	const readable = 0o444
	var v []volume
	if o.InImage == "" {
		v = append(v, volume{Name: "sallyport-bin", EmptyDir: &emptyDir{SizeLimit: "64Mi"}})
	}
	v = append(v, []volume{
		{Name: "sallyport-config", ConfigMap: &configMapVolume{Name: o.Name, DefaultMode: readable}},
		{Name: "work", EmptyDir: &emptyDir{SizeLimit: o.Storage}},
	}...)
	if o.Workdir != "/tmp" {
		v = append(v, volume{Name: "tmp", EmptyDir: &emptyDir{SizeLimit: o.Storage}})
	}
	if o.Secret != "" {
		// optional, so that the supervisor starts and says that it is missing;
		// a kubelet would wait for ever
		v = append(v, volume{Name: "sallyport-secrets", Secret: &secretVolume{SecretName: o.Secret, DefaultMode: readable, Optional: true}})
	}
	return v
}
