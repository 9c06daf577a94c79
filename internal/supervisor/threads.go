package supervisor

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/probe"
)

// The Go runtime aborts the process when it cannot have one thread more, and it never
// ends one that it has. So an agent that takes the last process of the cgroup, or of
// the user, would end its own supervisor, if that had not made its threads before.

// ownThreads is how many threads this process keeps: one for each that runs Go code
// at a time, and those that wait in the kernel beside them.
func ownThreads() int { return runtime.GOMAXPROCS(0) + 16 }

// ownTasks is how many processes and threads a sandbox needs beside the agent's.
func ownTasks() int64 { return int64(ownThreads() + 8) }

// nearRoom is so little room for processes that an agent could fill it while the
// threads are made, which takes a few milliseconds.
const nearRoom = 16384

// threadsAfter is when they are made where there is more: a short command does not
// pay for them, and this many processes take longer.
const threadsAfter = 100 * time.Millisecond

// haveRoom refuses a start that the cgroup's limit of processes would end in the
// middle, where this program could not even say so.
func (s *sandbox) haveRoom() error {
	limit, room := probe.PIDRoom()
	if room >= 0 && room < ownTasks() {
		return refused("raise pids.max of this container or cgroup", "no process can be made: the limit of processes is %d and %d are left, a sandbox needs %d for itself", limit, room, ownTasks())
	}
	var user unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NPROC, &user)
	s.crammed = room >= 0 && room < nearRoom || err == nil && user.Cur < nearRoom
	return nil
}

// makeThreads makes the runtime have n threads or more.
func makeThreads(n int) {
	all := make(chan struct{})
	var there, back sync.WaitGroup
	there.Add(n)
	for range n {
		back.Go(func() {
			runtime.LockOSThread() // so that the next one needs another thread
			defer runtime.UnlockOSThread()
			there.Done()
			<-all
		})
	}
	there.Wait()
	close(all)
	back.Wait()
}
