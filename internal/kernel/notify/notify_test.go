package notify

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		runChild()
	}
	goleak.VerifyTestMain(m)
}

// listen starts a child and a listener on it. The child's runtime preempts itself by
// signals, so the filter asks that no signal ends a call that was received.
func listen(t testing.TB) (*child, *Listener) {
	t.Helper()
	c, fd := start(t, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	l := New(fd)
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return c, l
}

// next receives one notification of the child's trapped call.
func next(t testing.TB, l *Listener) Notification {
	t.Helper()
	var n Notification
	if err := l.Recv(&n); err != nil {
		t.Fatal(err)
	}
	if n.Nr != trapped {
		t.Fatalf("notified call %d, want %d", n.Nr, trapped)
	}
	return n
}

func TestRecv(t *testing.T) {
	c, l := listen(t)
	c.tell(opCall, 11, 1<<40|22)
	n := next(t, l)
	if want := [6]uint64{11, 1<<40 | 22, 33, 44, 55, 66}; n.Args != want {
		t.Errorf("arguments %v, want %v", n.Args, want)
	}
	if n.Arch != auditArch || n.IP == 0 || n.ID == 0 {
		t.Errorf("notification %+v, want architecture %#x, an id and an address", n, auditArch)
	}
	tasks := fmt.Sprintf("/proc/%d/task/%d", c.cmd.Process.Pid, n.TID)
	if _, err := os.Stat(tasks); err != nil {
		t.Errorf("thread id of another process: %v", err)
	}
	if err := l.Valid(n.ID); err != nil {
		t.Error(err)
	}
	if err := l.Valid(n.ID + 1); err != ErrDead {
		t.Errorf("Valid of an unknown id = %v, want %v", err, ErrDead)
	}
}

func TestRespond(t *testing.T) {
	tests := []struct {
		name  string
		do    func(l *Listener, id uint64) error
		value uint64
		errno unix.Errno
	}{
		{"value", func(l *Listener, id uint64) error { return l.Respond(id, 1<<40|7, 0) }, 1<<40 | 7, 0},
		{"errno", func(l *Listener, id uint64) error { return l.Respond(id, 5, unix.EACCES) }, ^uint64(0), unix.EACCES},
		{"continue", (*Listener).Continue, uint64(os.Getpid()), 0},
	}
	c, l := listen(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c.tell(opCall, 0, 0)
			n := next(t, l)
			if err := tt.do(l, n.ID); err != nil {
				t.Fatal(err)
			}
			value, errno := c.reply()
			if value != tt.value || unix.Errno(errno) != tt.errno {
				t.Errorf("caller saw %#x, %v, want %#x, %v", value, unix.Errno(errno), tt.value, tt.errno)
			}
			if err := tt.do(l, n.ID); err == nil {
				t.Error("answered twice")
			}
		})
	}
}

func TestAddFD(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())
	var want unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		do    func(l *Listener, id uint64) (int, error)
		sent  bool
		flags uint64
	}{
		{"add", func(l *Listener, id uint64) (int, error) { return l.AddFD(id, fd, false) }, false, 0},
		{"add_cloexec", func(l *Listener, id uint64) (int, error) { return l.AddFD(id, fd, true) }, false, unix.FD_CLOEXEC},
		{"at", func(l *Listener, id uint64) (int, error) { return 77, l.AddFDAt(id, fd, 77, true) }, false, unix.FD_CLOEXEC},
		{"send", func(l *Listener, id uint64) (int, error) { return l.AddFDSend(id, fd, false) }, true, 0},
		{"send_cloexec", func(l *Listener, id uint64) (int, error) { return l.AddFDSend(id, fd, true) }, true, unix.FD_CLOEXEC},
	}
	c, l := listen(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c.tell(opCall, 0, 0)
			n := next(t, l)
			newfd, err := tt.do(l, n.ID)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.sent {
				if err := l.Respond(n.ID, int64(newfd), 0); err != nil {
					t.Fatal(err)
				}
			}
			if value, errno := c.reply(); value != uint64(newfd) || errno != 0 {
				t.Fatalf("caller saw %d, %v, want %d", int64(value), unix.Errno(errno), newfd)
			}
			c.tell(opFD, uint64(newfd), 0)
			if ino, flags := c.reply(); ino != want.Ino || flags != tt.flags {
				t.Errorf("descriptor %d has inode %d, flags %d, want %d, %d", newfd, ino, flags, want.Ino, tt.flags)
			}
		})
	}
}

// Signals to the thread that hands over a descriptor must not make the caller
// believe that it got descriptor 0: the kernel marks the call as answered before
// the descriptor is there.
func TestAddFDSendUnderSignals(t *testing.T) {
	c, l := listen(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, tid := os.Getpid(), unix.Gettid()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Tgkill(pid, tid, unix.SIGURG) // the runtime's own, harmless
			}
		}
	}()
	defer func() { close(stop); <-done }()
	for i := range 2000 {
		c.tell(opCall, 0, 0)
		n := next(t, l)
		// One number again and again, so that the child's table does not fill up.
		want, err := l.addFD(addFD{id: n.ID, flags: unix.SECCOMP_ADDFD_FLAG_SEND | unix.SECCOMP_ADDFD_FLAG_SETFD, newfd: 99}, 1, true)
		if err != nil {
			t.Fatal(err)
		}
		if value, errno := c.reply(); value != 99 || errno != 0 || want != 99 {
			t.Fatalf("round %d: caller saw %d, %v, we %d, want 99", i, int64(value), unix.Errno(errno), want)
		}
	}
}

// A full table fails the step alone: the call still waits for its answer.
func TestAddFDFull(t *testing.T) {
	c, l := listen(t)
	limit := unix.Rlimit{Cur: 3, Max: 3}
	if err := unix.Prlimit(c.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	c.tell(opCall, 0, 0)
	n := next(t, l)
	if _, err := l.AddFDSend(n.ID, 0, true); !errors.Is(err, unix.EMFILE) {
		t.Fatalf("AddFDSend into a full table = %v, want %v", err, unix.EMFILE)
	}
	if err := l.Respond(n.ID, 0, unix.EMFILE); err != nil {
		t.Fatal(err)
	}
	if _, errno := c.reply(); unix.Errno(errno) != unix.EMFILE {
		t.Errorf("caller saw %v, want %v", unix.Errno(errno), unix.EMFILE)
	}
}

func TestBadNumbers(t *testing.T) {
	c, l := listen(t)
	c.tell(opCall, 0, 0)
	n := next(t, l)
	if _, err := l.AddFD(n.ID, -1, true); err == nil {
		t.Error("AddFD(-1) succeeded")
	}
	if err := l.AddFDAt(n.ID, 0, -1, true); err == nil {
		t.Error("AddFDAt(-1) succeeded")
	}
	if _, err := l.AddFD(n.ID, 1<<30, true); !errors.Is(err, unix.EBADF) {
		t.Errorf("AddFD of no descriptor = %v, want %v", err, unix.EBADF)
	}
	if err := l.Respond(n.ID, 0, 0); err != nil {
		t.Error(err)
	}
}

func TestDeadCaller(t *testing.T) {
	c, l := listen(t)
	c.tell(opCall, 0, 0)
	n := next(t, l)
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait()
	checks := map[string]error{
		"Valid":     l.Valid(n.ID),
		"Respond":   l.Respond(n.ID, 0, 0),
		"Continue":  l.Continue(n.ID),
		"AddFDAt":   l.AddFDAt(n.ID, 0, 9, true),
		"AddFDSend": second(l.AddFDSend(n.ID, 0, true)),
	}
	for name, err := range checks {
		if err != ErrDead {
			t.Errorf("%s after death = %v, want %v", name, err, ErrDead)
		}
	}
}

func second(_ int, err error) error { return err }

func TestGone(t *testing.T) {
	c, l := listen(t)
	c.tell(opExit, 0, 0)
	if kernelOlder(t, 6, 11) {
		t.Skip("the kernel is older than 6.11, where RECV ends when the last user goes")
	}
	if err := l.Recv(new(Notification)); err != ErrGone {
		t.Fatalf("Recv = %v, want %v", err, ErrGone)
	}
}

// A signal takes the caller out of its call before the call was received: the kernel
// counted a notification that is not there. That must not look like the end.
func TestRecvStale(t *testing.T) {
	c, l := listen(t)
	tid := answer(t, c, l)
	for range 20 {
		c.tell(opCall, 0, 0)
		p := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		// The child's Go runtime ignores it, and the kernel restarts the call.
		if err := unix.Tgkill(c.cmd.Process.Pid, tid, unix.SIGURG); err != nil {
			t.Fatal(err)
		}
		answerAny(t, c, l)
	}
}

// answer lets the child make its call, answers it and returns the thread.
func answer(t *testing.T, c *child, l *Listener) int {
	t.Helper()
	c.tell(opCall, 0, 0)
	return answerAny(t, c, l)
}

// answerAny answers the call that the child makes, as often as it is restarted.
func answerAny(t *testing.T, c *child, l *Listener) int {
	t.Helper()
	for {
		n := next(t, l)
		switch err := l.Respond(n.ID, 0, 0); err {
		case nil:
			c.reply()
			return n.TID
		case ErrDead:
		default:
			t.Fatal(err)
		}
	}
}

func TestCloseWakes(t *testing.T) {
	_, l := listen(t)
	got := make(chan error, 1)
	go func() { got <- l.Recv(new(Notification)) }()
	waitBlocked(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != ErrClosed {
		t.Errorf("Recv = %v, want %v", err, ErrClosed)
	}
}

// Close may fall between any two steps of a beginning Recv.
func TestCloseRace(t *testing.T) {
	_, fd := start(t, 0)
	defer unix.Close(fd)
	for i := range 500 {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		l := New(dup)
		got := make(chan error, 2)
		for range 2 {
			go func() { got <- l.Recv(new(Notification)) }()
		}
		for range i {
			_ = l.Valid(1)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-got; err != ErrClosed {
				t.Fatalf("round %d: %v, want %v", i, err, ErrClosed)
			}
		}
	}
}

func TestClosed(t *testing.T) {
	c, l := listen(t)
	c.tell(opCall, 0, 0)
	n := next(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := map[string]error{
		"recv":    l.Recv(new(Notification)),
		"valid":   l.Valid(n.ID),
		"respond": l.Respond(n.ID, 0, 0),
		"add":     second(l.AddFD(n.ID, 0, true)),
		"sync":    l.SetSyncWakeUp(),
		"close":   l.Close(),
	}
	for name, err := range got {
		if err != ErrClosed {
			t.Errorf("%s after Close = %v, want %v", name, err, ErrClosed)
		}
	}
	// Closed, never open: the waiting call and the next one fail.
	for range 2 {
		value, errno := c.reply()
		if diff := cmp.Diff(unix.ENOSYS, unix.Errno(errno)); diff != "" {
			t.Errorf("caller saw %d and (-want +got):\n%s", int64(value), diff)
		}
		c.tell(opCall, 0, 0)
	}
}

func TestTooManyThreads(t *testing.T) {
	_, l := listen(t)
	for i := range l.blocked {
		l.blocked[i].Store(1 << 30) // no such thread
	}
	if err := l.Recv(new(Notification)); err != errTooMany {
		t.Errorf("Recv = %v, want %v", err, errTooMany)
	}
}

func TestNoAllocations(t *testing.T) {
	c, l := listen(t)
	const runs = 200
	c.tell(opRepeat, runs+1, 42)
	var n Notification
	var failed error
	allocs := testing.AllocsPerRun(runs, func() {
		if err := errors.Join(l.Recv(&n), l.Valid(n.ID), l.Respond(n.ID, 42, 0)); err != nil {
			failed = err
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
	if allocs != 0 {
		t.Errorf("%v allocations for a notified call, want 0", allocs)
	}
	if wrong, _ := c.reply(); wrong != 0 {
		t.Errorf("%d of %d calls saw a wrong answer", wrong, runs+1)
	}
}

// waitBlocked returns when a thread that uses the listener sleeps in the kernel.
func waitBlocked(t *testing.T, l *Listener) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		for i := range l.blocked {
			tid := l.blocked[i].Load()
			if tid == 0 {
				continue
			}
			stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", tid))
			if err == nil && strings.Contains(string(stat), ") S ") {
				return
			}
		}
	}
	t.Fatal("no thread blocks on the listener")
}

func kernelOlder(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a < major || a == major && b < minor
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			c, l := listen(b)
			if sync {
				if err := l.SetSyncWakeUp(); err != nil {
					b.Skip(err)
				}
			}
			c.tell(opRepeat, uint64(b.N), 42)
			var n Notification
			b.ResetTimer()
			for range b.N {
				if err := l.Recv(&n); err != nil {
					b.Fatal(err)
				}
				if err := l.Respond(n.ID, 42, 0); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			c.reply()
		})
	}
}
