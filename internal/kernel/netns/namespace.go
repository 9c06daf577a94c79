package netns

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed says that the namespace has no thread left for this.
var ErrClosed = errors.New("netns: closed")

// Namespace is a network namespace with threads of this process in it. They
// enter it when it is made, because entering takes CAP_SYS_ADMIN, which the
// supervisor gives up before they are used.
type Namespace struct {
	fd    int                // owned
	jobs  chan job           // taken by the thread that answers Do
	spare chan chan<- func() // threads that wait for their one task
	end   sync.Once
	ended chan struct{}
	idle  []int // threads that end with Close
}

type job struct {
	do   func() error
	done chan error
}

// New makes a namespace in which the loopback interface is down and nothing
// else exists, with one thread for [Namespace.Do] and spare threads for
// [Namespace.Go]. It needs CAP_SYS_ADMIN; the error is a *[StepError]. The
// caller closes it.
func New(spare int) (*Namespace, error) {
	n := &Namespace{fd: -1, jobs: make(chan job), spare: make(chan chan<- func(), spare), ended: make(chan struct{})}
	ready := make(chan error)
	thread(func() {
		var err error
		n.fd, err = unshare()
		n.idle = append(n.idle, unix.Gettid())
		ready <- err
		if err == nil {
			n.serve()
		}
	})
	if err := <-ready; err != nil {
		return nil, err
	}
	for range spare {
		task := make(chan func(), 1)
		thread(func() {
			err := step("entering the network namespace", unix.Setns(n.fd, unix.CLONE_NEWNET))
			n.idle = append(n.idle, unix.Gettid())
			ready <- err
			if err != nil {
				return
			}
			if f := <-task; f != nil {
				f()
			}
		})
		if err := <-ready; err != nil {
			n.Close()
			return nil, err
		}
		n.spare <- task
	}
	return n, nil
}

// unshare puts the calling thread into a namespace of its own and opens it.
func unshare() (int, error) {
	if err := step("making a network namespace", unix.Unshare(unix.CLONE_NEWNET)); err != nil {
		return -1, err
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, step("opening the network namespace", err)
}

// thread runs f on an operating system thread of its own, which ends with f. It
// is never the first thread of the process: that one cannot end, and
// /proc/self/net shows its namespace.
func thread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			f()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}

func (n *Namespace) serve() {
	for {
		select {
		case j := <-n.jobs:
			j.done <- j.do()
		case <-n.ended:
			return
		}
	}
}

// Do runs f on a thread in the namespace and returns what it returns. A socket
// that f makes belongs to the namespace for good.
func (n *Namespace) Do(f func() error) error {
	j := job{f, make(chan error, 1)}
	select {
	case n.jobs <- j:
		return <-j.done
	case <-n.ended:
		return ErrClosed
	}
}

// Go hands f to a thread in the namespace that runs nothing else and ends with
// f. It does not wait. Without a spare thread it returns [ErrClosed].
func (n *Namespace) Go(f func()) error {
	select {
	case task := <-n.spare:
		task <- f
		return nil
	default:
		return ErrClosed
	}
}

// Close ends the threads that have nothing to do, and waits for them if none has
// been given a task. Tasks that [Namespace.Go]
// started end by themselves, and the namespace with the last of its processes.
func (n *Namespace) Close() error {
	var err error
	n.end.Do(func() {
		close(n.ended)
		err = unix.Close(n.fd)
		busy := cap(n.spare) - len(n.spare)
		for range len(n.spare) {
			close(<-n.spare)
		}
		if busy == 0 {
			await(n.idle)
		}
	})
	return err
}

// endWithin is how long an idle thread may take to end.
const endWithin = 200 * time.Millisecond

// await waits until threads of this process are gone: the runtime ends the
// thread of a goroutine a moment after it.
func await(tids []int) {
	end := time.Now().Add(endWithin)
	for _, tid := range tids {
		for unix.Tgkill(unix.Getpid(), tid, 0) == nil && time.Now().Before(end) {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// StepError tells which step of making a namespace or a link the kernel
// refused. Nothing of it is left.
type StepError struct {
	Step string
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("netns: %s: %v", e.Step, e.Err) }

// Unwrap gives the kernel's error.
func (e *StepError) Unwrap() error { return e.Err }

func step(name string, err error) error {
	if err == nil {
		return nil
	}
	return &StepError{name, err}
}
