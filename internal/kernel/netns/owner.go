package netns

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// owner is who made a veth pair, as the alias of its host's end says: a process
// by its number, the time at which it started, and the PID namespace in which
// the number means something.
type owner struct {
	pid   int
	start uint64 // clock ticks since boot, proc_pid_stat(5)
	space uint64 // inode of the PID namespace
}

const aliasFormat = "sallyport pid=%d start=%d pidns=%d"

func (o owner) alias() string { return fmt.Sprintf(aliasFormat, o.pid, o.start, o.space) }

func parseAlias(s string) (o owner, ok bool) {
	n, err := fmt.Sscanf(s, aliasFormat, &o.pid, &o.start, &o.space)
	return o, err == nil && n == 3 && o.alias() == s && o.pid > 0
}

// ownAlias names this process.
func ownAlias() string {
	return owner{os.Getpid(), startOf(os.Getpid()), pidSpace()}.alias()
}

// startOf is when a process started; 0 if there is none.
func startOf(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name may hold anything; the last parenthesis ends it. What follows
	// starts with field 3, and field 22 is wanted.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return 0
	}
	t, _ := strconv.ParseUint(f[19], 10, 64)
	return t
}

func pidSpace() uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/pid", &st) != nil {
		return 0
	}
	return st.Ino
}

// alive says whether the owner still runs; known is false for one of another
// PID namespace.
func (o owner) alive() (alive, known bool) {
	if o.space != pidSpace() {
		return false, false
	}
	start := startOf(o.pid)
	return start != 0 && start == o.start, true
}
