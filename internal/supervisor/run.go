package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine"
	"sallyport/internal/confine/gate"
	"sallyport/internal/confine/stage"
	"sallyport/internal/egress/dns"
	"sallyport/internal/egress/identity"
	"sallyport/internal/egress/middleware"
	"sallyport/internal/egress/proxy"
	"sallyport/internal/event"
	"sallyport/internal/kernel/caps"
	"sallyport/internal/kernel/probe"
	"sallyport/internal/policy"
)

// sandbox is one run, put together by Run and taken down by it.
type sandbox struct {
	o        Options
	policy   *policy.Policy // that it started with; what of it is fixed holds for life
	facts    probe.Facts
	plan     *confine.Plan
	writable []string // where the agent may write, and so make unix sockets
	capture  bool

	mode  policy.Mode
	space *netspace // the agent's network namespace; nil in the host's and where the stage makes it

	listener    *net.TCPListener
	proxyAddr   netip.AddrPort
	ledger      *identity.Ledger
	proxy       *proxy.Server
	directs     directs
	ends        ends
	roots       []byte // further ones for servers, PEM
	trust       *trust
	creds       credentials
	backends    *http.Transport // of inference.local; nil without
	pins        *pins
	current     atomic.Pointer[generation] // whose policy is in force
	replacing   sync.Mutex                 // one policy at a time
	retired     *middleware.Chain          // of the generation before
	control     *control                   // nil without a socket
	denied      denied
	running     chan struct{} // closed once agent is set
	ownLoopback [2]netip.Addr // where servers inside the sandbox listen: IPv4 sockets, IPv6 sockets
	denials     bucket
	dns         *dns.Server
	servers     servers
	unix        []gate.Grant
	publisher   publisher
	umask       int  // the caller's, handed to the agent
	gcPercent   int  // to be set again when the agent runs
	crammed     bool // the agent could fill the room for processes at once

	health  health
	session *event.Session
	writer  *event.Writer
	agent   *stage.Process
}

// OwnProcess sets up the Go runtime of a process that does nothing but Run: the
// gate's thread waits in the kernel with a P of the scheduler in its hands until
// sysmon takes it away, so there is one more.
func OwnProcess() { runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1) }

// Run holds the command in a sandbox until it ends or ctx does, and returns its exit status:
// the agent's own, or 128+n when signal n ended it. The error is an *ExitError
// when sallyport itself refused or failed; nothing of the sandbox is left then.
func Run(ctx context.Context, o Options) (int, error) { return newSandbox(o).run(ctx) }

func newSandbox(o Options) *sandbox { return &sandbox{o: o, running: make(chan struct{})} }

func (s *sandbox) run(ctx context.Context) (int, error) {
	defer s.close()
	// A start makes little garbage, and collecting it takes as long as the rest.
	s.gcPercent = debug.SetGCPercent(-1)
	defer debug.SetGCPercent(s.gcPercent)
	if err := s.prepare(); err != nil {
		return exitStatus(err), err
	}
	status, err := s.start(ctx)
	if err != nil {
		return exitStatus(err), err
	}
	return status, nil
}

func exitStatus(err error) int {
	var e *ExitError
	if errors.As(err, &e) {
		return e.Status
	}
	return ExitRefused
}

// prepare does everything that can fail before something of the agent exists,
// in the order in which the supervisor gives up what it may do.
func (s *sandbox) prepare() error {
	steps := []func() error{
		s.haveRoom, s.choosePolicy, s.chooseMode, s.loadUpstream, s.openEvents, s.gatherCredentials, s.isolate, s.becomeAgent, s.harden,
		s.lookAround, s.makeTrust, s.buildEgress, s.buildPlan, s.secureCredentials, s.openControl,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (s *sandbox) now() int64 { return time.Now().UnixNano() }

func (s *sandbox) note(format string, args ...any) { s.o.note(format, args...) }

func (o Options) note(format string, args ...any) {
	if o.Note != nil {
		o.Note(fmt.Sprintf(format, args...))
	}
}

func (s *sandbox) choosePolicy() error {
	s.policy = s.o.Policy
	if s.policy == nil {
		s.policy = policy.Default()
		s.policy.Filesystem.ReadOnly = existing(s.policy.Filesystem.ReadOnly)
		s.policy.Filesystem.ReadWrite = existing(s.policy.Filesystem.ReadWrite)
	}
	s.capture = s.policy.NetworkCapture
	if s.o.Workdir == "" {
		wd, err := os.Getwd()
		if err != nil {
			return refused("give --workdir", "the current directory: %w", err)
		}
		s.o.Workdir = wd
	}
	wd, err := filepath.EvalSymlinks(s.o.Workdir)
	if err == nil {
		var st os.FileInfo
		if st, err = os.Stat(wd); err == nil && !st.IsDir() {
			err = syscall.ENOTDIR
		}
	}
	if err != nil {
		return refused("", "working directory %s: %w", s.o.Workdir, err)
	}
	s.o.Workdir = wd
	return nil
}

// existing drops the paths that this host does not have: the default policy
// speaks for many distributions.
func existing(paths []string) []string {
	var out []string
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func (s *sandbox) openEvents() error {
	host, _ := os.Hostname()
	var u unix.Utsname
	unix.Uname(&u)
	now := time.Now()
	s.ownLoopback = privateLoopback(uint32(now.UnixNano()) ^ uint32(os.Getpid())<<16)
	s.session = event.NewSession(event.Origin{
		SessionID: fmt.Sprintf("%d-%d", now.UnixNano(), os.Getpid()), Version: s.o.Version,
		Hostname: host, Kernel: unix.ByteSliceToString(u.Release[:]), Seed: uint32(now.UnixNano()),
	})
	const hint = "give --events a file in a directory that you can write"
	var err error
	if s.o.Events != "" {
		if s.writer, err = event.OpenWriter(s.o.Events); err != nil {
			return refused(hint, "events: %w", err)
		}
	}
	s.emit(event.Lifecycle(event.Start, "supervisor", s.o.Version))
	if s.writer != nil && s.writer.Err() != nil {
		return refused(hint, "events cannot be written: %w", s.writer.Err())
	}
	return nil
}

// becomeAgent gives up root for the agent's identity, on every thread and for
// good. Any other user simply stays who they are.
func (s *sandbox) becomeAgent() error {
	if os.Geteuid() != 0 {
		if s.policy.Process.RunAsUser != "" {
			if err := s.alreadyAgent(); err != nil {
				return err
			}
		}
		return s.shed()
	}
	who, err := agentOfRoot(s.policy)
	if err != nil {
		return err
	}
	if err := controlFor(s.o.Control, who.UID, who.GID); err != nil {
		s.note("the directory of control sockets: %v", err)
	}
	if err := caps.DropTo(who.UID, who.GID, who.Groups); err != nil {
		return refused("", "giving up root: %w", err)
	}
	s.o.Base = identityEnv(s.o.Base, who.UID, s.o.Workdir)
	s.note("started as root: the agent and its supervisor run as uid %d without capabilities", who.UID)
	return nil
}

// MustExecAsAgent tells whether root started this program and the program has
// threads that root cannot be taken from.
func MustExecAsAgent() bool { return os.Geteuid() == 0 && !caps.Reaches() }

// ExecAsAgent starts this program anew as the agent's identity, for one that
// MustExecAsAgent is true of. argv and env are the process's own. What root alone
// can read is out of reach then: an error says so.
func ExecAsAgent(o Options, argv, env []string) error {
	who, err := agentOfRoot(o.Policy)
	if err != nil {
		return err
	}
	s := &sandbox{o: o, policy: o.Policy}
	if s.policy == nil {
		s.policy = &policy.Policy{}
	}
	if err := s.chooseMode(); err != nil {
		return err
	}
	switch s.mode {
	case policy.Namespace:
		return mayIsolate()
	case policy.ModeUnset:
		o.note("%v", s.strictest())
	}
	o.note("started as root: the agent and its supervisor run as uid %d without capabilities", who.UID)
	if o.Workdir == "" {
		o.Workdir, _ = os.Getwd() // of no consequence but HOME; the new program says what is wrong with it
	}
	env = identityEnv(env, who.UID, o.Workdir)
	return refused("build sallyport with CGO_ENABLED=0", "%w", caps.ExecAs(who, "/proc/self/exe", argv, env))
}

// agentOfRoot is who root's agent becomes.
func agentOfRoot(p *policy.Policy) (caps.Identity, error) {
	var as policy.Process
	if p != nil {
		as = p.Process
	}
	who, err := caps.Target(as.RunAsUser, as.RunAsGroup, os.LookupEnv)
	if err != nil {
		return who, refused("", "process.run_as_user: %w", err)
	}
	return who, nil
}

// shed gives up what a user who is not root was lent, such as the two
// capabilities that make namespaces.
func (s *sandbox) shed() error {
	have, err := caps.Read()
	if err == nil && have.Permitted|have.Inheritable|have.Ambient != 0 {
		err = caps.Shed()
	}
	if err != nil {
		return refused("", "giving up capabilities: %w", err)
	}
	return nil
}

// alreadyAgent checks that a policy's identity is the caller's own: without root
// there is no other to be had.
func (s *sandbox) alreadyAgent() error {
	who, err := caps.Target(s.policy.Process.RunAsUser, s.policy.Process.RunAsGroup, os.LookupEnv)
	if err == nil && who.UID != os.Getuid() {
		err = fmt.Errorf("this is uid %d, the policy wants uid %d", os.Getuid(), who.UID)
	}
	if err != nil {
		return refused("start it as root or as that user, or leave run_as_user out", "process.run_as_user: %w", err)
	}
	return nil
}

// harden closes the supervisor to the agent, which may run as the same user:
// its memory cannot be read or dumped, and files that it makes are its own.
func (s *sandbox) harden() error {
	if err := caps.Harden(); err != nil {
		return refused("", "hardening the supervisor: %w", err)
	}
	s.umask = unix.Umask(0o077)
	return nil
}

func (s *sandbox) lookAround() error {
	f, err := probe.Quick()
	if err != nil {
		return refused("sallyport doctor says more", "looking at this host: %w", err)
	}
	s.facts = f
	_, err = s.build() // what this host cannot hold is said before anything is opened
	return err
}

// makeTrust begins to write what the agent is to trust.
func (s *sandbox) makeTrust() error {
	s.trust = newTrust(s.ends.authority, s.roots)
	return nil
}

// build plans with what is known by now.
func (s *sandbox) build() (*confine.Plan, error) {
	readable := s.o.Readable
	if s.trust != nil {
		dir, err := s.trust.place()
		if err != nil {
			return nil, err
		}
		readable = append([]string{dir}, readable...)
	}
	plan, err := confine.Build(confine.Input{
		Policy: s.policy, Workdir: s.o.Workdir, ProxyPort: s.proxyAddr.Port(),
		Readable: readable, Off: s.o.Off, Network: networks[s.mode],
	}, s.facts)
	var refusal *confine.RefusedError
	if errors.As(err, &refusal) {
		return nil, refused(refusal.Hint(), "%w", err)
	}
	return plan, err
}

func (s *sandbox) buildPlan() error {
	plan, err := s.build()
	if err != nil {
		return err
	}
	s.plan = plan
	s.writable = realPaths(plan.Writable())
	s.unix = gate.Grants(s.policy.Sockets.Unix, s.writable)
	for _, h := range plan.Report.Holes() {
		s.note("not enforced on this host: %s: %s", h.Name, h.Detail)
	}
	return nil
}

// close takes down what prepare has built and start has not.
func (s *sandbox) close() {
	if s.listener != nil {
		s.listener.Close()
	}
	s.space.close()
	if s.trust != nil {
		s.trust.close()
	}
	if s.backends != nil {
		s.backends.CloseIdleConnections()
	}
	s.creds.wipe()
	s.control.close()
	if s.session != nil {
		s.emit(event.Lifecycle(event.Stop, "supervisor", s.o.Version))
	}
	if s.writer != nil {
		s.writer.Close()
	}
	if s.umask != 0 {
		unix.Umask(s.umask)
	}
	s.servers.diag.Close()
}
