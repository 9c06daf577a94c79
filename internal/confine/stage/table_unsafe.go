package stage

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/caps"
)

// Any is the Want of a step whose return value does not matter as long as the
// call succeeds.
const Any = -1

// Step is one system call of the init stage.
type Step struct {
	Name  string        // what failed, in the words of an error message
	Nr    uintptr       // system call number
	Args  [6]uintptr    // as the kernel takes them
	Want  int64         // the value that it must return, or Any
	Errno syscall.Errno // the error that it must return; 0: it must succeed
}

// stopSignal is the guard's signal: it comes from the kernel when the
// supervisor's thread dies, and from the supervisor when the sandbox is to end.
const stopSignal = syscall.SIGUSR2

// The agent's descriptors while its table runs. They are fixed, so that the
// table can name them before anything runs.
const (
	agentControl  = 3 // control socket: carries the listener out
	agentRuleset  = 4 // Landlock ruleset; after it is closed, the listener takes its number
	agentErrFD    = 5 // error pipe, close on exec
	agentFirstOff = 6
	listenerFD    = agentRuleset
)

// sources are numbered from here, above every fixed descriptor, so that no
// dup3 overwrites one that is still needed.
const firstSource = 10

const (
	tableGuard = 1
	tableAgent = 2
)

// agentGuard is the place of a step in the agent's table: a guard that was killed
// before the agent was tied to it would leave an agent that nobody ends. What the
// step must return is known to the guard alone.
const agentGuard = 1

// program is all that the two children read. It is built before fork, lives on
// the heap and is not touched while they are being made.
type program struct {
	guard, agent, release []Step
	calls                 []call // of agent
	guardPID              *int64 // in calls; the guard puts its own in
	stack                 *[8]uint128
	control, errPipe      uintptr // descriptors in the guard
	kept                  uintptr // the guard's control socket after release
	wait                  sigset
	scoped                bool
	childrenPath          *[32]byte
	buf                   *[4096]byte
	keep                  []any // what Args point to
}

func ptr[T any](p *program, v *T) uintptr {
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(v))
}

func cstring(p *program, s string) (uintptr, error) {
	b, err := syscall.BytePtrFromString(s)
	if err != nil {
		return 0, fmt.Errorf("stage: %q: holds a zero byte", s)
	}
	return ptr(p, b), nil
}

func cstrings(p *program, list []string) (uintptr, error) {
	v, err := syscall.SlicePtrFromStrings(list)
	if err != nil {
		return 0, fmt.Errorf("stage: an argument or variable holds a zero byte")
	}
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(&v[0])), nil
}

// uint128 is aligned as a stack is.
type uint128 [2]uint64

// sources are the descriptors that the children inherit, at numbers of at
// least firstSource.
type sources struct {
	stdio                          [3]int
	control, ruleset, guardRuleset int
	errPipe                        int
}

func prctl(name string, op, arg uintptr) Step {
	return Step{Name: name, Nr: unix.SYS_PRCTL, Args: [6]uintptr{op, arg}}
}

func dup(name string, from, to int, flags int) Step {
	return Step{Name: name, Nr: unix.SYS_DUP3, Args: [6]uintptr{uintptr(from), uintptr(to), uintptr(flags)}, Want: int64(to)}
}

func closeFD(name string, fd int) Step {
	return Step{Name: name, Nr: unix.SYS_CLOSE, Args: [6]uintptr{uintptr(fd)}}
}

func signalMask(p *program, name string, set sigset) Step {
	return Step{Name: name, Nr: unix.SYS_RT_SIGPROCMASK, Args: [6]uintptr{unix.SIG_SETMASK, ptr(p, &set), 0, unsafe.Sizeof(set)}}
}

func closeRange(name string, first, last uint32) Step {
	return Step{Name: name, Nr: unix.SYS_CLOSE_RANGE, Args: [6]uintptr{uintptr(first), uintptr(last), 0}}
}

func closeFrom(name string, first uint32) Step { return closeRange(name, first, ^uint32(0)) }

// guardTable is what the guard does before it makes the agent.
func guardTable(p *program, s Spec, src sources) ([]Step, error) {
	self := uintptr(os.Getpid())
	t := []Step{signalMask(p, "blocking signals", ^sigset(0))}
	if s.Own {
		last, err := caps.Last()
		if err != nil {
			return nil, err
		}
		t = append(t, ownSteps(p, os.Getuid(), os.Getgid(), last)...)
	}
	t = append(t,
		prctl("tying the guard to the supervisor", unix.PR_SET_PDEATHSIG, uintptr(stopSignal)),
		Step{Name: "finding the supervisor alive", Nr: unix.SYS_GETPPID, Want: int64(self)},
		Step{Name: "making the guard's session", Nr: unix.SYS_SETSID, Want: Any},
		prctl("becoming the reaper", unix.PR_SET_CHILD_SUBREAPER, 1),
		prctl("no_new_privs", unix.PR_SET_NO_NEW_PRIVS, 1),
	)
	if src.guardRuleset >= 0 {
		t = append(t,
			Step{Name: "entering the guard's Landlock domain", Nr: unix.SYS_LANDLOCK_RESTRICT_SELF, Args: [6]uintptr{uintptr(src.guardRuleset)}},
			// The proof that kill(-1) stays inside: the supervisor, outside of
			// the domain, must be out of reach.
			Step{Name: "proving the signal scope", Nr: unix.SYS_KILL, Args: [6]uintptr{self, 0}, Errno: syscall.EPERM})
	}
	// Here and not by the agent, whose first steps can fail, too.
	return append(t, dup("error pipe", src.errPipe, agentErrFD, unix.O_CLOEXEC)), nil
}

// releaseTable is what the guard does once the agent exists: it keeps the
// control socket, as descriptor 0, and nothing else.
func releaseTable(src sources) []Step {
	return []Step{
		dup("keeping the control socket", src.control, 0, 0),
		closeFrom("closing descriptors", 1),
	}
}

// agentTable is the order of the walls. Each step may rely on those above it.
func agentTable(p *program, s Spec, src sources) ([]Step, error) {
	dir, err := cstring(p, s.Dir)
	if err != nil {
		return nil, err
	}
	t := []Step{
		prctl("tying the agent to the guard", unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL)),
		agentGuard: {Name: "finding the guard alive", Nr: unix.SYS_GETPPID},
		{Name: "making the agent's session", Nr: unix.SYS_SETSID, Want: Any},
		dup("standard input", src.stdio[0], 0, 0),
		dup("standard output", src.stdio[1], 1, 0),
		dup("standard error", src.stdio[2], 2, 0),
		dup("control socket", src.control, agentControl, unix.O_CLOEXEC),
	}
	if src.ruleset >= 0 {
		t = append(t, dup("Landlock ruleset", src.ruleset, agentRuleset, unix.O_CLOEXEC))
	} else {
		t = append(t, closeRange("freeing the listener's number", listenerFD, listenerFD))
	}
	if s.Terminal {
		t = append(t, Step{Name: "taking the terminal", Nr: unix.SYS_IOCTL, Args: [6]uintptr{0, unix.TIOCSCTTY, 0}})
	}
	t = append(t,
		Step{Name: StepDir, Nr: unix.SYS_CHDIR, Args: [6]uintptr{dir}},
		Step{Name: "setting the umask", Nr: unix.SYS_UMASK, Args: [6]uintptr{uintptr(s.Umask)}, Want: Any},
	)
	for i := range s.Limits {
		l := &s.Limits[i]
		t = append(t, Step{Name: "limiting " + l.Name, Nr: unix.SYS_PRLIMIT64, Args: [6]uintptr{0, uintptr(l.Resource), ptr(p, &l.Value), 0}})
	}
	t = append(t,
		closeFrom("closing descriptors", agentFirstOff),
		prctl("no_new_privs", unix.PR_SET_NO_NEW_PRIVS, 1),
	)
	if src.ruleset >= 0 {
		t = append(t,
			Step{Name: "landlock_restrict_self", Nr: unix.SYS_LANDLOCK_RESTRICT_SELF, Args: [6]uintptr{agentRuleset}},
			closeFD("closing the Landlock ruleset", agentRuleset))
	}
	t = append(t, filterSteps(p, s)...)
	t = append(t,
		closeFD("closing the control socket", agentControl),
		signalMask(p, "unblocking signals", 0))
	return appendExec(p, s, t)
}

// filterSteps load the seccomp filter and, where it notifies, hand the listener
// over. sendmsg is not among the notified calls, so the thread that has just
// been filtered can still send.
func filterSteps(p *program, s Spec) []Step {
	if len(s.Filter) == 0 {
		return nil
	}
	prog := &unix.SockFprog{Len: uint16(len(s.Filter)), Filter: &s.Filter[0]}
	load := Step{Name: StepFilter, Nr: unix.SYS_SECCOMP,
		Args: [6]uintptr{unix.SECCOMP_SET_MODE_FILTER, uintptr(s.ListenerFlags), ptr(p, prog)}}
	if !s.Notify() {
		return []Step{load}
	}
	load.Want = listenerFD
	msg := rightsMessage(p, listenerFD)
	return []Step{
		load,
		{Name: "handing over the listener", Nr: unix.SYS_SENDMSG, Args: [6]uintptr{agentControl, msg, unix.MSG_NOSIGNAL}, Want: Any},
		closeFD("closing the listener", listenerFD),
	}
}

// rightsMessage builds the msghdr that carries one descriptor.
func rightsMessage(p *program, fd int) uintptr {
	rights := unix.UnixRights(fd)
	body := &message{}
	iov := &unix.Iovec{Base: (*byte)(unsafe.Pointer(body))}
	iov.SetLen(int(unsafe.Sizeof(*body)))
	p.keep = append(p.keep, rights, body, iov)
	hdr := &unix.Msghdr{Iov: iov, Control: &rights[0]}
	hdr.SetIovlen(1)
	hdr.SetControllen(len(rights))
	return ptr(p, hdr)
}

func appendExec(p *program, s Spec, t []Step) ([]Step, error) {
	path, err := cstring(p, s.Path)
	if err != nil {
		return nil, err
	}
	argv, err := cstrings(p, s.Args)
	if err != nil {
		return nil, err
	}
	env, err := cstrings(p, s.Env)
	if err != nil {
		return nil, err
	}
	return append(t, Step{Name: StepExec, Nr: unix.SYS_EXECVE, Args: [6]uintptr{path, argv, env}, Want: Any}), nil
}

// The names of the steps that a caller may want to tell apart.
const (
	StepNamespaces = "making a user and a network namespace"
	StepMap        = "mapping the user into the namespace"
	StepLoopback   = "raising the namespace's loopback interface"

	StepGuard  = "making the guard"
	StepAgent  = "making the agent"
	StepDir    = "entering the working directory"
	StepFilter = "loading the seccomp filter"
	StepExec   = "executing the command"
)

func newProgram(s Spec, src sources) (*program, error) {
	p := &program{
		control: uintptr(src.control), errPipe: uintptr(src.errPipe), kept: 0,
		scoped: src.guardRuleset >= 0, stack: &[8]uint128{}, childrenPath: &[32]byte{}, buf: &[4096]byte{},
	}
	copy(p.childrenPath[:], "/proc/thread-self/children")
	p.wait.add(syscall.SIGCHLD)
	p.wait.add(stopSignal)
	p.release = releaseTable(src)
	var err error
	if p.guard, err = guardTable(p, s, src); err != nil {
		return nil, err
	}
	if p.agent, err = agentTable(p, s, src); err != nil {
		return nil, err
	}
	p.calls = callsOf(p.agent)
	p.guardPID = &p.calls[agentGuard].want
	return p, nil
}
