package pod

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path"
	"runtime/debug"
	"syscall"
	"time"

	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
)

// Streams are the container's three files. They are borrowed.
type Streams struct{ In, Out, Err *os.File }

// name is what the program is called, in an image and in a pod's volume.
const name = "sallyport-supervisor"

const usage = `usage: sallyport-supervisor run [--config FILE] -- COMMAND [ARG...]
       sallyport-supervisor copy-self DIR
       sallyport-supervisor version

run holds COMMAND in the sandbox that the configuration describes and exits with
its status, with 128+n when signal n ended it, or with 125 when the supervisor
refuses; the reason is then in the termination message too. copy-self puts this
program into DIR, which is how it gets into an image that does not have it.
`

// Main runs the command line in args, whose first element is the program's own
// name, and returns the status to exit with.
func Main(ctx context.Context, s Streams, args, environ []string) int {
	termination := DefaultConfig().Termination
	verb := ""
	if len(args) > 1 {
		verb, args = args[1], args[2:]
	}
	var err error
	switch verb {
	case "run":
		var c Config
		var command []string
		if c, command, err = options(args, environ); c.Termination != "" {
			termination = c.Termination
		}
		if err == nil {
			var code int
			if code, err = run(ctx, s, c, command, environ); err == nil {
				return code
			}
		}
	case "copy-self":
		if len(args) != 1 {
			err = refuse("", "copy-self: expected one directory")
		} else {
			err = copySelf(args[0], name)
		}
	case "version":
		fmt.Fprintln(s.Out, name, version())
	case "help", "--help", "-h":
		fmt.Fprint(s.Out, usage)
	default:
		err = refuse(name+" help shows the usage", "expected run, copy-self or version")
	}
	if err != nil {
		tell(s.Err, termination, err)
		return status(err)
	}
	return 0
}

// options reads the arguments of run.
func options(args, environ []string) (Config, []string, error) {
	file := ""
	if len(args) >= 2 && args[0] == "--config" {
		file, args = args[1], args[2:]
	}
	if len(args) < 2 || args[0] != "--" {
		return DefaultConfig(), nil, refuse(name+" help shows the usage", "run: expected [--config FILE] -- COMMAND")
	}
	c, err := load(file, environ)
	return c, args[1:], err
}

func version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok || b.Main.Version == "" || b.Main.Version == "(devel)" {
		return "devel"
	}
	return b.Main.Version
}

// run checks everything, then starts the agent and stays until it has ended.
func run(ctx context.Context, s Streams, c Config, command, environ []string) (int, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	h, l := &health{}, &log{people: s.Err, failed: stop, lines: map[string]*os.File{"stdout": s.Out, "stderr": s.Err}[c.Events]}
	o := supervisor.Options{
		Command: command, UpstreamCA: c.UpstreamCA, Workdir: c.Workdir, Env: c.Env, Base: environ, Version: version(), Events: c.eventsFile(),
		// one stream for all that the agent says: the other is ours alone
		Stdin: s.In, Stdout: s.Out, Stderr: s.Out,
		Note:  func(text string) { say(s.Err, "%s", text) },
		Event: l.event,
	}
	if err := c.check(s, &o); err != nil {
		return 0, err
	}
	var err error
	if o.RunConfig, err = loadRun(c.Run); err != nil {
		return 0, err
	}
	closeHealth, err := serveHealth(c.Health, h)
	if err != nil {
		return 0, err
	}
	defer closeHealth()
	o.Started = func(held func() error) {
		h.started(held)
		say(s.Err, "the agent runs (policy: %s)", source(o.Policy))
	}
	if o.Policy == nil || o.Policy.NetworkEnforcement == policy.ModeUnset {
		o.Mode = policy.Platform // what a pod without privilege can have
	}
	late := c.endAfterGrace(ctx, stop)
	supervisor.OwnProcess()
	code, err := supervisor.Run(ctx, o)
	killed := late()
	if logErr := l.close(); err == nil && logErr != nil {
		return 0, fmt.Errorf("events could not be written, so the sandbox was ended: %w", logErr)
	}
	if err == nil && killed {
		say(s.Err, "the agent did not end within %v and was killed", c.Grace)
	}
	return code, err
}

func source(p *policy.Policy) string {
	if p == nil {
		return policy.DefaultSource
	}
	return p.Source
}

// eventsFile is where the supervisor writes events itself; empty for a stream.
func (c Config) eventsFile() string {
	if path.IsAbs(c.Events) {
		return c.Events
	}
	return ""
}

// check looks at everything that the configuration names, and puts the policy
// into o.
func (c Config) check(s Streams, o *supervisor.Options) error {
	warnings, err := loadPolicy(c.Policy, o)
	for _, w := range warnings {
		say(s.Err, "warning: %s", w)
	}
	if err != nil {
		return err
	}
	private := c.Private
	for _, own := range []string{c.Secrets, c.eventsFile()} {
		if own != "" {
			private = append(private[:len(private):len(private)], own)
		}
	}
	for _, step := range []func() error{
		func() error { return checkPrivate(private, c.Workdir, o.Policy) },
		func() error { return checkSecrets(c.Secrets) },
		func() error { return checkWorkdir(c.Workdir, o.Policy) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// endAfterGrace ends the sandbox when the agent has not ended in time after
// SIGTERM, which the supervisor passes on. late tells whether that happened.
func (c Config) endAfterGrace(ctx context.Context, end func()) (late func() bool) {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	done := make(chan bool, 1)
	quit := make(chan struct{})
	go func() {
		select {
		case <-term:
		case <-ctx.Done():
			done <- false
			return
		case <-quit:
			done <- false
			return
		}
		timer := time.NewTimer(c.Grace)
		defer timer.Stop()
		select {
		case <-timer.C:
			end()
			done <- true
		case <-quit:
			done <- false
		}
	}()
	return func() bool {
		signal.Stop(term)
		close(quit)
		return <-done
	}
}
