package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/internal/event"
	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
)

const runHelp = `Runs a program in a sandbox whose only way out is the proxy.

Standard output is the program's alone; what sallyport has to say goes to
standard error behind "sallyport:". The exit status is the program's, or 128+n
when signal n ended it; 125 means that sallyport refused to start it and says
why, 126 that it cannot be executed, 127 that it was not found.

Without --policy nothing outside can be reached: the program may write below
the working directory and /tmp, and read the system's directories.

Without --mode, and where the policy does not name one, it is namespace mode if
this process has the privilege for it and the host can hold it, else platform
mode. A line says which and why; "sallyport doctor" tells beforehand.

The policy file is followed: a change takes force as a whole, or is reported and
changes nothing. A file that the program could write, such as one below its
working directory, is not followed; "sallyport policy set" works for any.

--learn lets nothing through that the policy does not allow. It writes down what
was used, as the narrowest policy that allows that: hosts, ports, programs and,
where requests are read, methods, paths and keys of queries, the values of which
are not recorded. What was denied is added as comments.
A person reads it before it is used, since the program chose what is in it.`

const runExample = `  sallyport run -- sh -c 'curl https://example.com'
  sallyport run --policy dev.yaml --env API_BASE=https://api.example.com -- claude
  sallyport run --policy dev.yaml --events events.jsonl -- make test
  sallyport run --policy dev.yaml --provider github=env:GH_TOKEN -- gh pr list`

// runFlags are the flags of run as they were given.
type runFlags struct {
	policy, config, mode, workdir, upstreamCA, events, learn string
	env, resolve, upstreamCerts, provider                    []string
	proxyPort                                                uint16
}

func newRun(s Streams) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:         "run [flags] -- COMMAND [ARG...]",
		Short:       "run a program in the sandbox",
		Long:        runHelp,
		Example:     runExample,
		Annotations: map[string]string{refusesWith125: "yes"},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("expected a command after --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return run(cmd, s, f, args) },
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false) // what follows the command belongs to it
	fl.StringVar(&f.policy, "policy", "", "policy `FILE`; without it nothing outside can be reached")
	fl.StringVar(&f.config, "config", "", "run configuration `FILE`: providers of credentials, and inference.local")
	fl.StringArrayVar(&f.provider, "provider", nil, "let the program use a credential without having it, `NAME=SOURCE`, such as github=env:GH_TOKEN; may be repeated")
	fl.StringVar(&f.mode, "mode", "", "network enforcement `MODE`: platform, namespace or userns; default: the policy's, else the strictest that can be had")
	fl.StringVar(&f.workdir, "workdir", "", "the program's working directory `DIR`; default: this one")
	fl.StringArrayVar(&f.env, "env", nil, "set a variable for the program, `NAME=VALUE`; may be repeated")
	fl.StringArrayVar(&f.resolve, "resolve", nil, "use this address for a name, `NAME=ADDR`; judged like any other; may be repeated")
	fl.StringVar(&f.upstreamCA, "upstream-ca", "", "`FILE` with further roots for servers, PEM")
	fl.StringArrayVar(&f.upstreamCerts, "upstream-cert", nil, "show a server a client certificate, `HOST=CERT[,KEY]`, files in PEM; may be repeated")
	fl.Uint16Var(&f.proxyPort, "proxy-port", 0, "`PORT` of the proxy on 127.0.0.1; default: 3128 where free, else any")
	fl.StringVar(&f.events, "events", "", "append every event to this `FILE`, OCSF as JSON lines")
	fl.StringVar(&f.learn, "learn", "", "write what was used, as the narrowest policy that allows it, to this new `FILE`")
	cmd.MarkFlagFilename("learn", "yaml", "yml")
	cmd.MarkFlagFilename("policy", "yaml", "yml")
	cmd.MarkFlagFilename("config", "yaml", "yml")
	cmd.MarkFlagFilename("upstream-ca", "pem", "crt")
	cmd.MarkFlagFilename("events")
	cmd.MarkFlagDirname("workdir")
	cmd.RegisterFlagCompletionFunc("mode", completeMode)
	for _, name := range []string{"env", "resolve", "upstream-cert", "proxy-port", "provider"} {
		cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return cmd
}

// writable is where the program may write: its working directory, if that is
// granted or not, and what the policy names.
func writable(o supervisor.Options) []string {
	p := o.Policy
	if p == nil {
		p = policy.Default()
	}
	return append([]string{o.Workdir}, p.Filesystem.ReadWrite...)
}

func run(cmd *cobra.Command, s Streams, f runFlags, command []string) error {
	out := personOn(s.Err)
	note := func(text string) { sayf(out, "%s", text) }
	if supervisor.MustExecAsAgent() {
		o, err := f.options(io.Discard) // the new program says what is to be said
		if err != nil {
			return err
		}
		o.Note = note
		return exitError(supervisor.ExecAsAgent(o, os.Args, os.Environ()))
	}
	o, err := f.options(out)
	if err != nil {
		return err
	}
	log := newDenials(out, journalPath(os.Getenv), writable(o)...)
	defer log.close()
	o.Command, o.Base, o.Version = command, os.Environ(), Version()
	o.Stdin, o.Stdout, o.Stderr = s.In, s.Out, s.Err
	o.Note = note
	o.Event, o.OnlyTrouble = log.event, f.learn == ""
	o.Control = controlBase(os.Getenv, os.Getuid())
	if f.learn != "" {
		l, err := newLearner(f.learn, o.Policy)
		if err != nil {
			return err
		}
		defer func() { l.done(note, o.Document) }()
		o.Event = func(e event.Event) {
			log.event(e)
			l.event(e)
		}
	}
	supervisor.OwnProcess()
	status, err := supervisor.Run(cmd.Context(), o)
	if err == nil {
		return statusOnly(status)
	}
	return exitError(err)
}

// exitError gives an error of the supervisor its exit status.
func exitError(err error) error {
	if exit, ok := errors.AsType[*supervisor.ExitError](err); ok {
		return &statusError{exit.Status, err}
	}
	return err
}

// options turns flags into what the supervisor takes, and says which policy is
// in force.
func (f runFlags) options(out io.Writer) (supervisor.Options, error) {
	o := supervisor.Options{UpstreamCA: f.upstreamCA, UpstreamCerts: f.upstreamCerts, ProxyPort: int(f.proxyPort), Events: f.events, Env: f.env}
	var err error
	if o.Mode, err = parseMode(f.mode); err != nil {
		return o, err
	}
	if o.Resolve, err = parseResolve(f.resolve); err != nil {
		return o, err
	}
	for _, kv := range f.env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			return o, usagef("--env %q: expected NAME=VALUE", kv)
		}
	}
	if f.workdir != "" {
		if o.Workdir, err = filepath.Abs(f.workdir); err != nil {
			return o, fmt.Errorf("--workdir: %w", err)
		}
	}
	if err := f.withConfig(&o); err != nil {
		return o, err
	}
	if f.policy == "" {
		sayf(out, "no --policy: the default policy, no network")
		return o, nil
	}
	if o.Document, err = readPolicy(f.policy); err != nil {
		return o, err
	}
	p, warnings, err := supervisor.ReadPolicy(f.policy, o.Document)
	if err != nil {
		return o, err
	}
	for _, w := range warnings {
		sayf(out, "warning: %s", w)
	}
	o.Policy = p
	o.PolicyFile, err = filepath.Abs(f.policy)
	return o, err
}

// modes are the words of --mode; the empty one leaves it to the policy.
var modes = []policy.Mode{policy.ModeUnset, policy.Platform, policy.Namespace, policy.UserNS}

var completeMode = cobra.FixedCompletions([]string{policy.Platform.String(), policy.Namespace.String(), policy.UserNS.String()}, cobra.ShellCompDirectiveNoFileComp)

func parseMode(word string) (policy.Mode, error) {
	for _, m := range modes {
		if word == m.String() {
			return m, nil
		}
	}
	return 0, usagef("--mode %q: expected platform, namespace or userns", word)
}

// parseResolve reads NAME=ADDR[,ADDR...]; a name that comes twice gets all of
// its addresses.
func parseResolve(pairs []string) (map[string][]netip.Addr, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	names := make(map[string][]netip.Addr)
	for _, pair := range pairs {
		name, list, ok := strings.Cut(pair, "=")
		name = strings.TrimSuffix(strings.ToLower(name), ".")
		if !ok || name == "" {
			return nil, usagef("--resolve %q: expected NAME=ADDR", pair)
		}
		for text := range strings.SplitSeq(list, ",") {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				return nil, usagef("--resolve %q: %q is no IP address", pair, text)
			}
			names[name] = append(names[name], addr)
		}
	}
	return names, nil
}

func statusOnly(status int) error {
	if status == 0 {
		return nil
	}
	return &statusError{status: status}
}
