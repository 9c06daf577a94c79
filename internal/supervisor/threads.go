package supervisor

import (
	"runtime"
	"slices"
	"sync"
	"time"

	"sallyport/internal/kernel/probe"
)

// The Go runtime aborts the process when it cannot have one thread more, and it never
// ends one that it has. So an agent that takes the last process of the cgroup, or of
// the user, would end its own supervisor, if that had not made its threads before.
// They are enough for what an agent asks for, not for one that at the same time holds
// up as many of the gate's calls as it may (see [gate.Limits]): that one ends its own
// sandbox, and nothing is open then.

// ownThreads is how many threads this process keeps: one for each that runs Go code
// at a time, and those that wait in the kernel beside them.
func ownThreads() int { return runtime.GOMAXPROCS(0) + 16 }

// ownTasks is how many processes and threads a sandbox needs beside the agent's.
func ownTasks() int64 { return int64(ownThreads() + 8) }

// nearRoom is so little room for processes that an agent could fill it while the
// threads are made, which takes some milliseconds. Of limits that others share, it is
// the limit that is looked at: how much of it is left is not known.
const nearRoom = 32768

// threadsAfter is when they are made where there is more: a short command does not pay
// for them. To make so many threads takes 10 µs each, a third of a second.
const threadsAfter = 100 * time.Millisecond

// haveRoom refuses a start that the cgroup's limit of processes would end in the
// middle, where this program could not even say so.
func (s *sandbox) haveRoom() error {
	limit, room := probe.PIDRoom()
	if room >= 0 && room < ownTasks() {
		return refused("raise pids.max of this container or cgroup", "no process can be made: the limit of processes is %d and %d are left, a sandbox needs %d for itself", limit, room, ownTasks())
	}
	limits := probe.TaskLimits()
	s.crammed = slices.ContainsFunc(append(limits[:], room), func(n int64) bool { return n >= 0 && n < nearRoom })
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
