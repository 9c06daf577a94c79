package kube

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Where the pieces are mounted. One directory that no usual grant of a policy
// covers, so that the agent reads none of it.
const (
	Root      = "/sallyport"
	BinDir    = Root + "/bin"
	ConfigDir = Root + "/config"
	SecretDir = Root + "/secrets"
)

// HealthPort is where the supervisor answers a kubelet's probes.
const HealthPort = 3129

// Options say what the pod runs. The zero value of a field takes the default
// that its comment names.
type Options struct {
	Name       string   // of every object; "agent"
	Namespace  string   // empty: the caller's current one
	Image      string   // the agent's
	Supervisor string   // the image that brings the supervisor
	InImage    string   // where the agent's own image has the supervisor; empty: an init container brings it
	PullPolicy string   // of both images; empty: the cluster's choice
	Command    []string // the agent; must be given
	Env        []string // NAME=VALUE for the agent
	Policy     string   // the document's text; empty: the supervisor's default
	Run        string   // text of the document that names providers and models; empty: none
	UpstreamCA string   // further roots for servers, PEM; empty: none
	Granted    []string // paths that the policy lets the agent read
	LowPort    uint16   // the lowest port that the policy lets the agent listen on; 0: no fixed one
	Secret     string   // a Secret that the supervisor reads; empty: none
	Workdir    string   // "/work", an empty volume
	Events     string   // where every event goes as a JSON line: "stderr", "stdout"; empty: nowhere

	Needs       []Need            // what the policy's endpoints need
	TargetPorts map[uint16]uint16 // port of a service → port of its pods
	DNS         []netip.Prefix    // name servers; empty: those of Kubernetes and OpenShift

	Grace          int64  // seconds from SIGTERM to SIGKILL; 30
	CPU, Memory    string // limits; "1", "1Gi"
	Storage        string // limit of the working directory; "1Gi"
	RunAsUser      int64  // 0: the image's or the platform's
	HostUsers      *bool  // nil: the cluster's choice
	ShareProcesses bool   // one process namespace for all containers of the pod
}

// Need is one destination of the policy: a host pattern, or networks, or both.
type Need struct {
	Host     string
	Ports    []uint16
	Networks []netip.Prefix
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		field *string
		value string
	}{
		{&o.Name, "agent"}, {&o.Workdir, "/work"}, {&o.CPU, "1"}, {&o.Memory, "1Gi"}, {&o.Storage, "1Gi"},
	} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if o.Grace == 0 {
		o.Grace = 30
	}
	return o
}

var (
	label    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`) // see isLabel
	name     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	quantity = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$`)
	image    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]*$`)
	variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
)

// isLabel tells whether s is a label of RFC 1123, of at most 63 bytes.
func isLabel(s string) bool { return len(s) <= 63 && label.MatchString(s) }

// validate names every option that Kubernetes or the supervisor would refuse,
// before anything is printed.
func (o Options) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("kube: "+format, args...)) }
	if !isLabel(o.Name) {
		bad("name %q: expected at most 63 of a-z, 0-9 and -", o.Name)
	}
	if o.Namespace != "" && !isLabel(o.Namespace) {
		bad("namespace %q: expected at most 63 of a-z, 0-9 and -", o.Namespace)
	}
	if o.Secret != "" && (!name.MatchString(o.Secret) || len(o.Secret) > 253) {
		bad("secret %q: expected the name of a Secret", o.Secret)
	}
	if o.InImage != "" && (!path.IsAbs(o.InImage) || path.Clean(o.InImage) != o.InImage) {
		bad("supervisor in the image %q: expected an absolute path", o.InImage)
	}
	for what, v := range map[string]string{"image": o.Image, "supervisor image": o.Supervisor} {
		if !image.MatchString(v) && (what == "image" || o.InImage == "") {
			bad("%s %q: expected registry/name:tag", what, v)
		}
	}
	for what, v := range map[string]string{"cpu": o.CPU, "memory": o.Memory, "storage": o.Storage} {
		if !quantity.MatchString(v) {
			bad("%s %q: expected a quantity such as 500m or 1Gi", what, v)
		}
	}
	if len(o.Command) == 0 || o.Command[0] == "" {
		bad("no command")
	}
	for _, text := range append([]string{o.Policy, o.Run, o.UpstreamCA}, append(o.Command, o.Env...)...) {
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			bad("%.40q: expected UTF-8 text without zero bytes", text)
		}
	}
	for _, e := range o.Env {
		if !variable.MatchString(e) {
			bad("env %q: expected NAME=VALUE", e)
		}
	}
	switch o.Events {
	case "", "stderr", "stdout":
	default:
		bad("events %q: expected stderr or stdout", o.Events)
	}
	switch o.PullPolicy {
	case "", "Always", "IfNotPresent", "Never":
	default:
		bad("pull policy %q: expected Always, IfNotPresent or Never", o.PullPolicy)
	}
	if o.RunAsUser < 0 || o.RunAsUser > 1<<32-2 {
		bad("user %d: expected a number above 0", o.RunAsUser)
	}
	if o.Grace < minGrace {
		bad("grace %d: expected at least %d seconds", o.Grace, minGrace)
	}
	return errors.Join(append(errs, o.validatePaths()...)...)
}

// minGrace leaves the supervisor time to end a sandbox that does not end.
const minGrace = 5

// validatePaths keeps what belongs to the supervisor out of the agent's reach:
// both are one user, so the policy is what holds it.
func (o Options) validatePaths() []error {
	var errs []error
	if !path.IsAbs(o.Workdir) || path.Clean(o.Workdir) != o.Workdir || o.Workdir == "/" {
		errs = append(errs, fmt.Errorf("kube: working directory %q: expected an absolute path below /", o.Workdir))
	}
	for _, p := range append([]string{o.Workdir}, o.Granted...) {
		if covers(p, Root) || covers(Root, p) {
			errs = append(errs, fmt.Errorf("kube: the agent is granted %s, but %s belongs to the supervisor; grant narrower paths", p, Root))
		}
	}
	return errs
}

// covers tells whether a grant of dir reaches p.
func covers(dir, p string) bool {
	dir = path.Clean(dir)
	return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
}
