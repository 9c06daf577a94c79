package attack

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	futexWait = 0
	futexWake = 1
)

// spawn clones up to n processes that share this memory and make the same
// calls. It does not wait for them and returns how many there are.
func (a *agent) spawn(n int, flags uintptr, calls ...[]uintptr) int {
	rows, at := a.heap.alloc(len(calls) * rowWords * 8)
	for i, c := range calls {
		for j, v := range c {
			binary.NativeEndian.PutUint64(rows[(i*rowWords+j)*8:], uint64(v))
		}
	}
	_, stack := a.heap.alloc(4096) // one for all: a row needs none
	for i := range n {
		if cloneCalls(flags|unix.CLONE_VM|uintptr(unix.SIGCHLD), stack+4096, at, uintptr(len(calls))) < 0 {
			return i // a limit of this host
		}
	}
	return n
}

// deaf are the calls of a process that wants to be forgotten: a session of its
// own, no signals, no death with its parent.
func (a *agent) deaf() [][]uintptr {
	all := a.heap.put(number64(minusOne))
	return [][]uintptr{
		{unix.SYS_SETSID},
		{unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, all, 0, 8},
		{unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0},
		{unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1},
	}
}

// hour is how long what a case leaves behind lives if nobody ends it, in seconds.
const hour = 3600

// forkBomb leaves processes behind. That they end is seen outside, by the pipe
// that all of them hold.
func forkBomb(a *agent) {
	a.try("left_behind", func() error {
		sleep := a.heap.put(append(number64(hour), number64(0)...))
		n := a.spawn(500, 0, append(a.deaf(), []uintptr{unix.SYS_NANOSLEEP, sleep, 0})...)
		return &refusal{wordEnded, fmt.Sprintf("%d processes", n)}
	})
}

// descriptorFlood opens sockets until none come any more, and wants one after
// it has let go of them.
func descriptorFlood(a *agent) {
	a.try("sockets", func() error {
		var l unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
			l.Cur = l.Max
			unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
		}
		var held []int
		var last error
		for len(held) < 20000 {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				last = err
				break
			}
			held = append(held, fd)
		}
		for _, fd := range held {
			unix.Close(fd)
		}
		if err := a.fetchOrigin(); err != nil {
			return foundf("after %d sockets (%v) nothing is served: %v", len(held), last, err)
		}
		return &refusal{wordEnded, fmt.Sprintf("%d sockets, then %v", len(held), last)}
	})
}

// flooders is how many call at once in a flood.
const flooders = 10000

// notifyFlood lets ten thousand wait and then call at once, or fewer where races
// are asked to be short.
func notifyFlood(a *agent) {
	a.try("calls", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return faultf("socket: %w", err)
		}
		open, gate := a.heap.alloc(8)
		sa := sockaddr(parse(a.TCP4))
		at := a.heap.put(sa)
		connect := []uintptr{unix.SYS_CONNECT, uintptr(fd), at, uintptr(len(sa))}
		n := flooders
		if a.Races > 0 {
			n = min(n, 10*a.Races)
		}
		n = a.spawn(n, 0,
			[]uintptr{unix.SYS_FUTEX, gate, futexWait, 0, 0},
			connect,
			[]uintptr{unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0},
			connect,
			[]uintptr{unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, 0})
		begin := time.Now()
		atomic.StoreUint64(word(open), 1) // who comes late does not wait
		call(unix.SYS_FUTEX, gate, futexWake, 1<<30)
		for ended := 0; ended < n; {
			pid, err := unix.Wait4(-1, nil, unix.WALL, nil)
			switch {
			case err != nil && err != unix.EINTR:
				return faultf("wait: %w", err)
			case pid > 0:
				ended++
			}
		}
		if err := a.fetchOrigin(); err != nil {
			return foundf("after %d callers nothing is served: %v", n, err)
		}
		return &refusal{wordEnded, fmt.Sprintf("%d callers, %v", n, time.Since(begin).Round(time.Millisecond))}
	})
}

// outliveSupervisor leaves processes that go on calling while the supervisor is
// killed. Nobody of them can report: the suite sees whether they are gone, and
// whether one got through.
func outliveSupervisor(a *agent) {
	a.try("outlive", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return faultf("socket: %w", err)
		}
		sa := sockaddr(parse(a.TCP4))
		at := a.heap.put(sa)
		pause := a.heap.put(append(number64(0), number64(1e6)...))
		calls := a.deaf()
		for range 3000 {
			calls = append(calls, []uintptr{unix.SYS_CONNECT, uintptr(fd), at, uintptr(len(sa))}, []uintptr{unix.SYS_NANOSLEEP, pause, 0})
		}
		sleep := a.heap.put(append(number64(hour), number64(0)...)) // else they would be gone without being killed
		a.spawn(40, 0, append(calls, []uintptr{unix.SYS_NANOSLEEP, sleep, 0})...)
		_, err = a.tell("kill")
		return err
	})
}
