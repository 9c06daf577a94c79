package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/internal/kube"
	"sallyport/internal/policy"
)

const kubeManifestHelp = `Prints a pod that runs a program in the sandbox, with its ConfigMap and its
NetworkPolicy. The pod asks for no privilege: it is admitted under the
"restricted" Pod Security Standard and, with --openshift, by restricted-v2.

The program's image needs no change: an init container copies the supervisor
into the pod. The NetworkPolicy is the outer wall: it lets the pod reach what
the policy's endpoints need and the cluster's name servers, and nothing reach
the pod. It sees the ports of pods, not of services: say with --target-port
where a service of the cluster differs.`

const kubeManifestExample = `  sallyport kube manifest --image node:22 --policy dev.yaml -- npm test | kubectl apply -f -
  sallyport kube manifest --openshift --name coder --secret keys --policy dev.yaml -- claude
  kubectl logs agent; kubectl describe pod agent`

// defaultUser is who the pod runs as where the platform does not choose: a
// number, so that a kubelet can see that it is not root.
const defaultUser = 65532

// manifestFlags are the flags of kube manifest that need reading.
type manifestFlags struct {
	o                          kube.Options
	policy, config, upstreamCA string
	userNamespace, events      string
	targets, dns               []string
	openshift, asJSON          bool
}

func newKubeManifest(s Streams) *cobra.Command {
	f := manifestFlags{}
	cmd := &cobra.Command{
		Use:     "manifest [flags] -- COMMAND [ARG...]",
		Short:   "print a pod that holds a program",
		Long:    kubeManifestHelp,
		Example: kubeManifestExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("expected a command after --")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return f.print(s, args) },
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false) // what follows the command belongs to it
	fl.StringVar(&f.o.Name, "name", "agent", "`NAME` of the objects")
	fl.StringVarP(&f.o.Namespace, "namespace", "n", "", "`NAMESPACE`; default: the one that kubectl chooses")
	fl.StringVar(&f.o.Image, "image", "debian:stable-slim", "the program's `IMAGE`")
	fl.StringVar(&f.o.Supervisor, "supervisor-image", "sallyport-supervisor:dev", "`IMAGE` that brings the supervisor, see deploy/image")
	fl.StringVar(&f.o.InImage, "supervisor-in-image", "", "the program's image has the supervisor at `PATH`: no init container, a faster start")
	fl.StringVar(&f.o.PullPolicy, "pull-policy", "", "`POLICY` for both images: Always, IfNotPresent or Never")
	fl.StringVar(&f.policy, "policy", "", "policy `FILE`; without it nothing outside can be reached")
	fl.StringVar(&f.config, "config", "", "run configuration `FILE`, as run has it: providers and models")
	fl.StringVar(&f.upstreamCA, "upstream-ca", "", "`FILE` with further roots for servers, PEM")
	fl.StringVar(&f.o.Secret, "secret", "", "`SECRET` with credentials, for the supervisor and never for the program")
	fl.StringArrayVar(&f.o.Env, "env", nil, "set a variable for the program, `NAME=VALUE`; may be repeated")
	fl.StringVar(&f.o.Workdir, "workdir", "/work", "the program's working directory `DIR`, an empty volume")
	fl.StringVar(&f.events, "events", "stderr", "write every event as a JSON line to `STREAM`: stderr, stdout or none")
	fl.StringArrayVar(&f.targets, "target-port", nil, "a service's port and that of its pods, `PORT=PORT`; may be repeated")
	fl.StringArrayVar(&f.dns, "dns", nil, "`NETWORK` of the name servers; default: the pods of Kubernetes and OpenShift; may be repeated")
	fl.Int64Var(&f.o.Grace, "grace", 30, "`SECONDS` that the program has to end after SIGTERM")
	fl.StringVar(&f.o.CPU, "cpu", "1", "limit of processors, `QUANTITY`")
	fl.StringVar(&f.o.Memory, "memory", "1Gi", "limit of memory, `QUANTITY`")
	fl.StringVar(&f.o.Storage, "storage", "1Gi", "limit of the working directory, `QUANTITY`")
	fl.Int64Var(&f.o.RunAsUser, "run-as-user", defaultUser, "`UID` of the program and its supervisor; 0: the image's or the platform's")
	fl.BoolVar(&f.openshift, "openshift", false, "leave the user to the platform, as restricted-v2 wants it")
	fl.StringVar(&f.userNamespace, "host-users", "", "`false` gives the pod a user namespace; default: the cluster's choice")
	fl.BoolVar(&f.o.ShareProcesses, "share-processes", false, "one process namespace for all containers of the pod")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON")
	f.complete(cmd)
	return cmd
}

func (f *manifestFlags) complete(cmd *cobra.Command) {
	cmd.MarkFlagFilename("policy", "yaml", "yml")
	cmd.MarkFlagFilename("config", "yaml", "yml")
	cmd.MarkFlagFilename("upstream-ca", "pem", "crt")
	fixed := map[string][]string{
		"pull-policy": {"Always", "IfNotPresent", "Never"}, "events": {"stderr", "stdout", "none"}, "host-users": {"true", "false"},
	}
	for _, name := range []string{"name", "namespace", "image", "supervisor-image", "supervisor-in-image", "secret", "env", "workdir", "target-port", "dns", "grace",
		"cpu", "memory", "storage", "run-as-user", "pull-policy", "events", "host-users"} {
		cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(fixed[name], cobra.ShellCompDirectiveNoFileComp))
	}
	cmd.ValidArgsFunction = cobra.NoFileCompletions
}

// print builds the objects and prints them; nothing is printed on an error.
func (f *manifestFlags) print(s Streams, command []string) error {
	f.o.Command = command
	if f.openshift {
		f.o.RunAsUser = 0
	}
	if f.events != "none" {
		f.o.Events = f.events
	}
	if f.userNamespace != "" {
		on, err := strconv.ParseBool(f.userNamespace)
		if err != nil {
			return usagef("--host-users %q: expected true or false", f.userNamespace)
		}
		f.o.HostUsers = &on
	}
	if err := f.network(); err != nil {
		return err
	}
	if err := errors.Join(f.useConfig(), f.usePolicy(s)); err != nil {
		return err
	}
	objs, err := kube.Build(f.o)
	if err != nil {
		return usagef("%w", err)
	}
	for _, host := range f.o.UnmappedServices() {
		sayf(s.Err, "warning: %s is a service of the cluster: its pods are let through on the service's port; --target-port PORT=PORT names another", host)
	}
	write := objs.YAML
	if f.asJSON {
		write = objs.JSON
	}
	text, err := write()
	if err != nil {
		return err
	}
	_, err = s.Out.Write(text)
	return err
}

// network reads the flags that only the NetworkPolicy needs.
func (f *manifestFlags) network() error {
	f.o.TargetPorts = map[uint16]uint16{}
	for _, pair := range f.targets {
		from, to, _ := strings.Cut(pair, "=")
		a, errA := strconv.ParseUint(from, 10, 16)
		b, errB := strconv.ParseUint(to, 10, 16)
		if errA != nil || errB != nil || a == 0 || b == 0 {
			return usagef("--target-port %q: expected PORT=PORT", pair)
		}
		f.o.TargetPorts[uint16(a)] = uint16(b)
	}
	for _, text := range f.dns {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, errAddr := netip.ParseAddr(text)
			if errAddr != nil || a.Zone() != "" {
				return usagef("--dns %q: expected an address or a network such as 10.96.0.10/32", text)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		f.o.DNS = append(f.o.DNS, p)
	}
	return nil
}

// useConfig reads what else the supervisor will find in its ConfigMap.
func (f *manifestFlags) useConfig() error {
	if f.config != "" {
		if _, err := loadRunConfig(f.config, nil); err != nil {
			return err
		}
		text, err := readConfig(f.config)
		if err != nil {
			return err
		}
		f.o.Run = string(text)
	}
	if f.upstreamCA != "" {
		text, err := readPolicy(f.upstreamCA)
		if err != nil {
			return fmt.Errorf("--upstream-ca: %w", errors.Unwrap(err))
		}
		f.o.UpstreamCA = string(text)
	}
	return nil
}

// usePolicy reads the policy as the supervisor will, so that a fault is seen
// here and not in a pod.
func (f *manifestFlags) usePolicy(s Streams) error {
	if f.policy == "" {
		sayf(s.Err, "no --policy: the default policy, no network")
		f.o.Granted = grants(policy.Default())
		return nil
	}
	p, warnings, err := loadPolicy(f.policy)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		sayf(s.Err, "warning: %s", w)
	}
	text, err := readPolicy(f.policy)
	if err != nil {
		return err
	}
	f.o.Policy, f.o.Granted = string(text), grants(p)
	for _, r := range p.Sockets.Bind {
		if f.o.LowPort == 0 || r.First < f.o.LowPort {
			f.o.LowPort = r.First
		}
	}
	for _, np := range p.Network {
		for _, e := range np.Endpoints {
			f.o.Needs = append(f.o.Needs, kube.Need{Host: e.Host, Ports: e.Ports, Networks: e.AllowedIPs})
		}
	}
	return nil
}

func grants(p *policy.Policy) []string {
	return append(append([]string{}, p.Filesystem.ReadOnly...), p.Filesystem.ReadWrite...)
}
