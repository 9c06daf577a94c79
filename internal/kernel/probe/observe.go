package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/notify"
	"sallyport/internal/kernel/procfs"
)

// observed is what a child in notified calls has shown.
type observed struct {
	SeccompNotify
	procMem, procFD, vmReadv, pidfdOpen, pidfdGetfd bool
}

// rounds are what is done to the child's notified calls, one after the other.
// Those that only answer come last: a kernel that harms the caller for the flag
// does so some of the time.
var rounds = []func(*scene) error{
	(*scene).lookAt, (*scene).give, (*scene).giveAndAnswer, (*scene).disturb,
	(*scene).answer, (*scene).answer, (*scene).answer, (*scene).answer, (*scene).answer, (*scene).answer,
}

// scene is a child that makes one notified call for each round.
type scene struct {
	kid    *kid
	listen *notify.Listener
	call   notify.Notification
	seen   *observed
	word   *uint64 // the child has a copy at the same address
	want   int64   // what the call returns
}

// observe has a child make notified calls under SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
// and again without it if the kernel does not take it or the child did not
// live through it.
func observe() observed {
	seen, err := observeWith(unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if err == nil {
		seen.WaitKillable = true
		return seen
	}
	if seen, err = observeWith(0); err != nil && seen.Why == "" {
		seen.Why = err.Error()
	}
	return seen
}

func observeWith(flags uintptr) (seen observed, err error) {
	install, keep := installing(flags)
	word := new(uint64)
	*word = markWord
	p := &program{calls: []call{install}}
	for range rounds {
		p.calls = append(p.calls, call{nr: unix.SYS_GETPPID})
	}
	k, err := start(p, unix.CLONE_FILES) // so that its listener is ours
	if err != nil {
		return seen, err
	}
	defer func() {
		status := k.end(err != nil)
		if err == nil && (!status.Exited() || status.ExitStatus() != 0) {
			err = fmt.Errorf("probe: child ended with status %#x", status)
		}
		runtime.KeepAlive(keep)
		runtime.KeepAlive(p)
		runtime.KeepAlive(word)
	}()
	fd, err := k.result()
	if err != nil {
		return seen, err
	}
	if fd < 0 {
		e := syscall.Errno(-fd)
		seen.NestedListener = e == unix.EBUSY
		return seen, fmt.Errorf("probe: seccomp with a listener: %w", e)
	}
	seen.NewListener = true
	s := &scene{kid: k, listen: notify.New(int(fd)), seen: &seen, word: word}
	defer s.listen.Close()
	seen.SyncWakeUp = s.listen.SetSyncWakeUp() == nil
	for _, round := range rounds {
		if err := s.next(int(fd), round); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// markWord is nothing that memory holds by chance.
const markWord = 0x53616c6c79506f72

// next takes the child's next call through a round and checks its result. A
// call that a signal took away begins anew and is answered at once.
func (s *scene) next(fd int, round func(*scene) error) error {
	for range 8 {
		told, err := s.kid.await(fd)
		if err != nil {
			return err
		}
		if told {
			got, err := s.kid.result()
			if err == nil && got != s.want {
				err = fmt.Errorf("probe: the call returned %d, expected %d", got, s.want)
			}
			return err
		}
		if err := s.listen.Recv(&s.call); err != nil {
			return err
		}
		if s.call.TID != s.kid.pid {
			return fmt.Errorf("probe: call of thread %d, expected %d", s.call.TID, s.kid.pid)
		}
		if err := round(s); err != nil && !errors.Is(err, notify.ErrDead) {
			return err
		}
		round = (*scene).answer
	}
	return errLate
}

// answer replies at once.
func (s *scene) answer() error {
	s.want = 4711
	return s.listen.Respond(s.call.ID, s.want, 0)
}

// lookAt reads the caller in every way there is.
func (s *scene) lookAt() error {
	pid, at := s.kid.pid, addressOf(s.word)
	var b [8]byte
	if f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid)); err == nil {
		n, _ := f.ReadAt(b[:], int64(at))
		f.Close()
		s.seen.procMem = n == len(b) && wordOf(b) == markWord
	}
	_, err := procfs.FDLink(pid, s.kid.read)
	s.seen.procFD = err == nil
	b = [8]byte{}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, _ := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: at, Len: len(b)}}, 0)
	s.seen.vmReadv = n == len(b) && wordOf(b) == markWord
	if pidfd, err := unix.PidfdOpen(pid, 0); err == nil {
		s.seen.pidfdOpen = true
		if got, err := unix.PidfdGetfd(pidfd, s.kid.read, 0); err == nil {
			s.seen.pidfdGetfd = true
			unix.Close(got)
		}
		unix.Close(pidfd)
	}
	return s.answer()
}

// give installs a descriptor in the caller. It shares our table, so it appears
// here too.
func (s *scene) give() error {
	if got, err := s.listen.AddFD(s.call.ID, s.kid.read, true); err == nil {
		s.seen.AddFD = true
		unix.Close(got)
	}
	return s.answer()
}

// giveAndAnswer does the same in one step.
func (s *scene) giveAndAnswer() error {
	got, err := s.listen.AddFDSend(s.call.ID, s.kid.read, true)
	if err != nil {
		return s.answer()
	}
	s.seen.AddFDSend, s.want = true, int64(got)
	unix.Close(got)
	return nil
}

// disturb stops the caller and lets it go on. With the flag its call is not
// touched by that; without it, the call begins anew and comes again.
func (s *scene) disturb() error {
	unix.Kill(s.kid.pid, unix.SIGSTOP)
	unix.Kill(s.kid.pid, unix.SIGCONT)
	return s.answer()
}
