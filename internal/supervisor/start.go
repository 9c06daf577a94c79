package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
	"sallyport/internal/confine/stage"
	"sallyport/internal/event"
	"sallyport/internal/kernel/caps"
	"sallyport/internal/kernel/notify"
)

// start starts the agent behind the plan, answers for it until everything in
// the sandbox has ended, and returns its exit status.
func (s *sandbox) start(ctx context.Context) (int, error) {
	env, err := environment(s.o.Base, append(s.creds.env, s.o.Env...), s.proxyAddr, s.ownLoopback, s.trust.environment)
	if err != nil {
		return 0, refused("", "%w", err)
	}
	path, err := findCommand(s.o.Command[0], s.o.Workdir, env)
	if err != nil {
		return 0, err
	}
	term, err := openTerminal(s.o)
	if err != nil {
		return 0, err
	}
	defer term.close()
	forward, stopForwarding := forwardSignals()
	defer stopForwarding()
	if s.crammed {
		makeThreads(ownThreads())
	}
	agent, findings, err := s.plan.Apply(stage.Spec{
		Path: path, Args: s.o.Command, Env: env, Dir: s.o.Workdir,
		Stdio: term.stdio, Terminal: term.own, Umask: s.umask, Limits: limits(), Thread: s.space.thread(),
	}, s.trust.ready)
	term.started()
	if err != nil {
		return 0, startError(s.o.Command[0], err)
	}
	debug.SetGCPercent(s.gcPercent)
	defer runtime.KeepAlive(make([]byte, gcHeadroom))
	if !s.crammed {
		defer time.AfterFunc(threadsAfter, func() { makeThreads(ownThreads()) }).Stop()
	}
	s.agent = agent
	s.servers.member = s.member
	close(s.running)
	forward(agent)
	s.emit(event.Launched(ownProcess(), s.agentProcess(path)))
	for _, f := range findings {
		s.emit(event.Finding(event.Found{Kind: "policy_path_void", Title: "a policy path is void", Detail: f.Path + ": " + f.Reason}))
		s.note("%s: %s", f.Path, f.Reason)
	}
	return s.keep(ctx, path, stopForwarding)
}

// gcHeadroom is counted by the garbage collector and never touched, so it takes no
// memory. With the few MB that live here, a collection would else come after as
// few, hundreds of times a second under load. So it comes after some more, which
// is all that it costs: at most this many bytes again.
const gcHeadroom = 8 << 20

// obstacles puts the steps that a host refuses most often into words.
var obstacles = []struct {
	step  string
	errno syscall.Errno
	say   string
	hint  string
}{ // errno 0: any
	{stage.StepFilter, syscall.EBUSY, "another sandbox answers this process's system calls already, and seccomp notification cannot be nested",
		"start sallyport outside of the other sandbox"},
	{stage.StepFilter, syscall.EPERM, "this container's seccomp profile refuses a filter with a listener", "use the runtime's default profile (RuntimeDefault)"},
	{stage.StepGuard, syscall.EAGAIN, "no process can be made: the limit of processes is reached", "raise pids.max, or the limit that ulimit -u shows"},
	{stage.StepAgent, syscall.EAGAIN, "no process can be made: the limit of processes is reached", "raise pids.max, or the limit that ulimit -u shows"},
	{stage.StepNamespaces, 0, "this host does not let a user make a user namespace", userNSHint},
	{stage.StepMap, 0, "this host does not let a user map itself into a user namespace", userNSHint},
	{stage.StepLoopback, 0, "this host gives a user namespace no capability over its own network", userNSHint},
	{stage.StepDir, syscall.EACCES, "the agent's user may not enter the working directory", "give --workdir a directory that this user can use"},
}

// startError tells a command that cannot be executed from a wall that cannot be
// built.
func startError(command string, err error) error {
	var step *stage.StepError
	var known *ExitError
	switch {
	case errors.As(err, &known):
		return err
	case !errors.As(err, &step):
		return refused("", "%w", err)
	}
	for _, o := range obstacles {
		if o.step == step.Step && (o.errno == step.Errno || o.errno == 0) {
			return refused(o.hint, "%s: %w", o.say, err)
		}
	}
	switch {
	case step.Step != stage.StepExec:
		return refused("sallyport doctor says what this host offers", "%w", err)
	case step.Errno == syscall.ENOENT:
		return &ExitError{ExitNotFound, fmt.Errorf("%s: its interpreter does not exist", command), ""}
	case step.Errno == syscall.EACCES:
		return &ExitError{ExitCannotExec, fmt.Errorf("%s: permission denied", command),
			"the sandbox executes only what the policy's filesystem_policy lets it read; add the program's directory to read_only"}
	}
	return &ExitError{ExitCannotExec, fmt.Errorf("%s: %w", command, step.Errno), ""}
}

// keep runs the gate, the proxy and the terminal for as long as the sandbox
// lives. path is what the agent executes first. It calls ended when nothing is
// left inside.
func (s *sandbox) keep(caller context.Context, path string, ended func()) (int, error) {
	ctx, cancel := context.WithCancel(caller)
	defer cancel()
	var gate, wg sync.WaitGroup
	var gateErr, proxyErr error
	closeGate := func() error { return nil }
	if s.agent.Listener >= 0 {
		g := s.newGate(ctx)
		closeGate = g.Close
		s.health.watch(g, s.agent.Listener)
		gate.Go(func() {
			defer s.health.ended("the gate")
			if gateErr = g.Run(); gateErr != nil {
				s.agent.Stop() // calls would hang: end what would make them
			}
		})
	}
	wg.Go(func() { s.space.watch(s.bypassed) })
	wg.Go(func() {
		defer s.health.ended("the proxy")
		if proxyErr = s.serve(ctx, s.listener); proxyErr != nil {
			s.agent.Stop()
		}
	})
	if os.Getpid() == 1 {
		wg.Go(func() { s.reapOrphans(ctx) })
	}
	wg.Go(func() { s.followPolicy(ctx) })
	wg.Go(func() { s.control.serve(ctx) })
	if s.o.Started != nil {
		s.o.Started(s.health.check)
	}
	wg.Go(func() {
		select {
		case <-ctx.Done():
			s.agent.Stop()
		case <-s.agent.Done():
		}
	})
	status, err := s.agent.Wait()
	if err != nil && caller.Err() != nil {
		status, err = killed, nil // the caller has ended it, and nobody was left to tell the status
	}
	if err == nil {
		s.emit(event.Exited(ownProcess(), s.agentProcess(path), exitCode(status)))
	}
	cancel()
	wg.Go(s.trust.close)
	wg.Go(ended)
	s.listener.Close()
	s.publisher.close()
	closeGate() // nobody is left to be answered; kernels before Linux 6.11 do not tell
	gate.Wait() // it uses the namespace
	s.directs.stop()
	s.space.finish()
	wg.Wait()
	s.space.close()
	if err := errors.Join(err, gateErr, proxyErr, s.eventsErr()); err != nil {
		return 0, refused("", "%w", err)
	}
	return exitCode(status), nil
}

// killed is the status of a process that SIGKILL ended.
const killed = syscall.WaitStatus(syscall.SIGKILL)

func exitCode(st syscall.WaitStatus) int {
	if st.Signaled() {
		return 128 + int(st.Signal())
	}
	return st.ExitStatus()
}

func (s *sandbox) newGate(ctx context.Context) *gate.Gate {
	l := notify.New(s.agent.Listener)
	if err := l.SetSyncWakeUp(); err != nil {
		s.note("notified calls are slower than they could be: %v", err)
	}
	o := gate.Options{
		Route: s.route, Ledger: s.ledger, Unix: s.unix, Writable: s.writable,
		BindPort: s.mayBind, Loopback: s.ownLoopback, Published: s.published, Denied: s.gateDenied, Listen: s.listening,
		Thread:        s.space.thread(),
		Members:       s.members,
		Now:           func() int64 { return time.Now().UnixNano() },
		Limits:        gate.Limits{Twins: twins()},
		Interruptible: !s.plan.WaitKillable,
	}
	if s.capture {
		o.Datagram = func(fd int, closed func()) gate.Datagrams {
			return newStandIn(fd, func(q []byte) (a []byte) {
				s.survives("a DNS answer", func() { a = s.dns.ServeMessage(ctx, q) }, func() {})
				return a
			}, closed)
		}
	}
	return gate.New(l, o)
}

// twins is how many sockets of the agent may be held here: half of our
// descriptors, so that the proxy has the other half. 0 is the gate's default.
func twins() int {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil || own.Cur/2 > 8192 {
		return 0
	}
	return max(1, int(own.Cur/2))
}

// mayBind says which loopback ports a server inside may take: those that the
// policy names and, with capture, ephemeral ones.
func (s *sandbox) mayBind(port uint16) bool {
	if port == 0 {
		return s.capture
	}
	for _, r := range s.policy.Sockets.Bind {
		if port >= r.First && port <= r.Last {
			return true
		}
	}
	return false
}

func (s *sandbox) published(port uint16) bool { return slices.Contains(s.policy.Sockets.Publish, port) }

// privateLoopback are two addresses of 127/8 for the servers of this sandbox,
// because a port of 127.0.0.1 and the same port of ::1 are two servers. They are
// no secret and no wall; they keep ports from clashing with those of the host.
func privateLoopback(seed uint32) [2]netip.Addr {
	a := [4]byte{127, 64 + byte(seed>>16)%128, byte(seed >> 8), 2 + byte(seed)%126*2}
	b := a
	b[3]++
	return [2]netip.Addr{netip.AddrFrom4(a), netip.AddrFrom4(b)}
}

// realPaths are the paths that exist, as the kernel names them.
func realPaths(paths []string) []string {
	var out []string
	for _, p := range paths {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			out = append(out, real)
		}
	}
	return out
}

// limits are the agent's resource limits: no core dumps, and the caller's own
// limit of descriptors, which the Go runtime has raised for itself.
func limits() []stage.Limit {
	l := []stage.Limit{{Name: "core dumps", Resource: unix.RLIMIT_CORE}}
	if core, err := caps.CoreLimit(); err == nil {
		l[0].Value = core
	}
	var own, parent unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return l
	}
	if err := unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, nil, &parent); err != nil {
		parent = unix.Rlimit{Cur: 1024, Max: own.Max}
	}
	hard := min(parent.Max, own.Max)
	return append(l, stage.Limit{Name: "descriptors", Resource: unix.RLIMIT_NOFILE, Value: unix.Rlimit{Cur: min(parent.Cur, hard), Max: hard}})
}
