package stage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spec says what to start and inside which walls. Descriptors are borrowed.
type Spec struct {
	Path string   // resolved executable
	Args []string // argv, with argv[0]
	Env  []string // K=V
	Dir  string   // working directory, absolute

	Stdio    [3]*os.File
	Terminal bool // Stdio[0] is a terminal that becomes the controlling one

	Ruleset      int // Landlock ruleset of the agent, or -1
	GuardRuleset int // Landlock ruleset of the guard with the signal scope, or -1

	Filter        []unix.SockFilter
	ListenerFlags uint // SECCOMP_FILTER_FLAG_*; with NEW_LISTENER the listener is handed over

	Umask  int
	Limits []Limit

	// Thread runs a func on an operating system thread that nothing else uses and
	// that ends with it; the guard and the agent are forked from there, so they
	// are in its namespaces. nil: a thread of this package's own.
	Thread func(func()) error
	// Own makes a user and a network namespace for the guard and the agent.
	Own bool
}

// Limit is one resource limit of the agent.
type Limit struct {
	Name     string
	Resource int
	Value    unix.Rlimit
}

// Notify says whether the filter has a listener.
func (s Spec) Notify() bool {
	return s.ListenerFlags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
}

// StepError tells which step of the init stage was refused by the kernel. The
// agent has not run.
type StepError struct {
	Step  string
	Errno syscall.Errno
}

func (e *StepError) Error() string { return fmt.Sprintf("stage: %s: %v", e.Step, e.Errno) }

// Unwrap gives the errno.
func (e *StepError) Unwrap() error { return e.Errno }

// Process is a started agent with its guard.
type Process struct {
	PID      int // the agent's process id
	Listener int // seccomp listener, owned by the caller, or -1
	guard    int
	pidfd    int
	control  int
	done     chan struct{}
	status   syscall.WaitStatus
	err      error
}

// Start runs the stage and returns once the command has been executed, or the
// name of the step that failed as a *StepError. On error nothing is left.
func Start(s Spec) (*Process, error) {
	type result struct {
		p   *Process
		err error
	}
	thread := s.Thread
	if thread == nil {
		thread = ownThread
	}
	started := make(chan result)
	// The parent-death signal belongs to this thread, so it stays here, waiting,
	// for as long as the guard lives, and ends with it.
	err := thread(func() {
		p, err := start(s)
		started <- result{p, err}
		if err == nil {
			p.reapGuard()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	r := <-started
	return r.p, r.err
}

func ownThread(f func()) error {
	go func() {
		runtime.LockOSThread()
		f()
	}()
	return nil
}

func start(s Spec) (*Process, error) {
	in, err := openInherited(s)
	defer in.close()
	if err != nil {
		return nil, err
	}
	prog, err := newProgram(s, in.src)
	if err != nil {
		return nil, err
	}
	syscall.ForkLock.Lock()
	pid, errno := fork(prog)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(prog)
	if errno != 0 {
		return nil, &StepError{Step: StepGuard, Errno: errno}
	}
	in.closeChildEnds()
	p := &Process{guard: int(pid), control: in.take(), Listener: -1, pidfd: -1, done: make(chan struct{})}
	if err := p.handshake(s, prog, in.errRead); err != nil {
		p.abort()
		return nil, err
	}
	return p, nil
}

// handshake collects the agent's process id and the listener, and learns from
// the end of the error pipe that execve has happened.
func (p *Process) handshake(s Spec, prog *program, errRead int) error {
	var raw [12]byte
	n, err := readFull(errRead, raw[:])
	if err != nil {
		return fmt.Errorf("stage: reading the error pipe: %w", err)
	}
	if n != 0 {
		return prog.failure(raw[:n])
	}
	for p.PID == 0 || (s.Notify() && p.Listener < 0) {
		kind, value, fd, err := p.receive()
		switch {
		case err != nil:
			return fmt.Errorf("stage: the guard ended before the agent had started: %w", err)
		case fd >= 0:
			p.Listener = fd
		case kind == msgPID:
			p.PID = int(value)
		}
	}
	p.pidfd, err = unix.PidfdOpen(p.PID, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stage: pidfd_open: %w", err)
	}
	return nil
}

func (p *program) failure(raw []byte) error {
	if len(raw) != 12 {
		return errors.New("stage: the error pipe ended in the middle of a record")
	}
	table, step := binary.NativeEndian.Uint32(raw), int(binary.NativeEndian.Uint32(raw[4:]))
	errno := syscall.Errno(binary.NativeEndian.Uint32(raw[8:]))
	steps := p.guard
	if table == tableAgent {
		steps = p.agent
	}
	if step >= len(steps) {
		return &StepError{Step: StepAgent, Errno: errno}
	}
	return &StepError{Step: steps[step].Name, Errno: errno}
}

// receive reads one record from the control socket; fd is the descriptor that
// it carried, or -1.
func (p *Process) receive() (kind, value uint32, fd int, err error) {
	buf, oob := make([]byte, 8), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(p.control, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil || n != len(buf) {
		return 0, 0, -1, errors.Join(err, errors.New("control socket closed"))
	}
	fd = -1
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(msgs) != 1 {
			return 0, 0, -1, errors.New("bug: control message")
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			return 0, 0, -1, errors.New("bug: control message without a descriptor")
		}
		fd = fds[0]
	}
	return binary.NativeEndian.Uint32(buf), binary.NativeEndian.Uint32(buf[4:]), fd, nil
}

// reapGuard waits for the agent's status and for the guard's end, which comes
// after everything in the sandbox has ended.
func (p *Process) reapGuard() {
	defer close(p.done)
	kind, value, _, err := p.receive()
	if err == nil && kind == msgStatus {
		p.status = syscall.WaitStatus(value)
	} else {
		p.err = errors.New("stage: the guard ended without the agent's status")
	}
	wait4(p.guard)
	unix.Close(p.control)
}

// abort ends a half-started sandbox. The guard does it: what the agent has started
// by now would outlive a guard that is killed.
func (p *Process) abort() {
	p.Stop()
	wait4(p.guard)
	unix.Close(p.control)
	if p.Listener >= 0 {
		unix.Close(p.Listener)
	}
}

func wait4(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// Guard is the process id of the agent's parent, which adopts every orphan of
// the sandbox.
func (p *Process) Guard() int { return p.guard }

// Done is closed when the agent and everything below it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait blocks until the sandbox is empty and returns the agent's status.
func (p *Process) Wait() (syscall.WaitStatus, error) {
	<-p.done
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
	return p.status, p.err
}

// Signal sends sig to the agent's own process. A process that has ended gets
// nothing: the pidfd cannot mean another one.
func (p *Process) Signal(sig syscall.Signal) error {
	if p.pidfd < 0 {
		return nil
	}
	if err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// Stop ends the sandbox: the guard kills everything and then itself. Wait
// returns when that has happened. A sandbox that has ended is left alone: the
// guard's number may be another process's.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return nil
	default:
		return unix.Kill(p.guard, stopSignal)
	}
}
