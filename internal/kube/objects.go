package kube

// The objects hold the fields that are written, in the order in which a person
// reads a manifest. Names are those of the Kubernetes API.

type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

type objectMeta struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels"`
}

type configMap struct {
	typeMeta
	Metadata objectMeta        `json:"metadata"`
	Data     map[string]string `json:"data"`
}

type pod struct {
	typeMeta
	Metadata objectMeta `json:"metadata"`
	Spec     podSpec    `json:"spec"`
}

type podSpec struct {
	RestartPolicy                 string             `json:"restartPolicy"`
	TerminationGracePeriodSeconds int64              `json:"terminationGracePeriodSeconds"`
	AutomountServiceAccountToken  bool               `json:"automountServiceAccountToken"`
	EnableServiceLinks            bool               `json:"enableServiceLinks"`
	HostUsers                     *bool              `json:"hostUsers,omitempty"`
	ShareProcessNamespace         *bool              `json:"shareProcessNamespace,omitempty"`
	DNSConfig                     dnsConfig          `json:"dnsConfig"`
	SecurityContext               podSecurityContext `json:"securityContext"`
	InitContainers                []container        `json:"initContainers,omitempty"`
	Containers                    []container        `json:"containers"`
	Volumes                       []volume           `json:"volumes"`
}

type dnsConfig struct {
	Options []nameValue `json:"options"`
}

type nameValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type podSecurityContext struct {
	RunAsNonRoot   bool           `json:"runAsNonRoot"`
	RunAsUser      *int64         `json:"runAsUser,omitempty"`
	SeccompProfile seccompProfile `json:"seccompProfile"`
	Sysctls        []nameValue    `json:"sysctls,omitempty"`
}

type seccompProfile struct {
	Type string `json:"type"`
}

type container struct {
	Name                     string                   `json:"name"`
	Image                    string                   `json:"image"`
	ImagePullPolicy          string                   `json:"imagePullPolicy,omitempty"`
	Command                  []string                 `json:"command"`
	Args                     []string                 `json:"args,omitempty"`
	Env                      []nameValue              `json:"env,omitempty"`
	Ports                    []containerPort          `json:"ports,omitempty"`
	LivenessProbe            *probe                   `json:"livenessProbe,omitempty"`
	ReadinessProbe           *probe                   `json:"readinessProbe,omitempty"`
	Resources                resources                `json:"resources"`
	SecurityContext          containerSecurityContext `json:"securityContext"`
	TerminationMessagePolicy string                   `json:"terminationMessagePolicy"`
	VolumeMounts             []volumeMount            `json:"volumeMounts"`
}

type containerPort struct {
	Name          string `json:"name"`
	ContainerPort int    `json:"containerPort"`
}

type probe struct {
	HTTPGet          httpGet `json:"httpGet"`
	PeriodSeconds    int     `json:"periodSeconds"`
	TimeoutSeconds   int     `json:"timeoutSeconds"`
	FailureThreshold int     `json:"failureThreshold"`
}

type httpGet struct {
	Path string `json:"path"`
	Port string `json:"port"`
}

type resources struct {
	Requests map[string]string `json:"requests"`
	Limits   map[string]string `json:"limits"`
}

type containerSecurityContext struct {
	AllowPrivilegeEscalation bool         `json:"allowPrivilegeEscalation"`
	ReadOnlyRootFilesystem   bool         `json:"readOnlyRootFilesystem"`
	Capabilities             capabilities `json:"capabilities"`
}

type capabilities struct {
	Drop []string `json:"drop"`
}

type volumeMount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
}

type volume struct {
	Name      string           `json:"name"`
	EmptyDir  *emptyDir        `json:"emptyDir,omitempty"`
	ConfigMap *configMapVolume `json:"configMap,omitempty"`
	Secret    *secretVolume    `json:"secret,omitempty"`
}

type emptyDir struct {
	SizeLimit string `json:"sizeLimit,omitempty"`
}

type configMapVolume struct {
	Name        string `json:"name"`
	DefaultMode int    `json:"defaultMode"`
}

type secretVolume struct {
	SecretName  string `json:"secretName"`
	DefaultMode int    `json:"defaultMode"`
	Optional    bool   `json:"optional"`
}

type networkPolicy struct {
	typeMeta
	Metadata objectMeta        `json:"metadata"`
	Spec     networkPolicySpec `json:"spec"`
}

type networkPolicySpec struct {
	PodSelector labelSelector `json:"podSelector"`
	PolicyTypes []string      `json:"policyTypes"`
	Ingress     []struct{}    `json:"ingress"`
	Egress      []egressRule  `json:"egress"`
}

type labelSelector struct {
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

type egressRule struct {
	To    []peer `json:"to"`
	Ports []port `json:"ports"`
}

type peer struct {
	IPBlock           *ipBlock       `json:"ipBlock,omitempty"`
	NamespaceSelector *labelSelector `json:"namespaceSelector,omitempty"`
	PodSelector       *labelSelector `json:"podSelector,omitempty"`
}

type ipBlock struct {
	CIDR   string   `json:"cidr"`
	Except []string `json:"except,omitempty"`
}

type port struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

type list struct {
	typeMeta
	Items []any `json:"items"`
}
