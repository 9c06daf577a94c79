package caps

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrKept says that the kernel still gives this process something that it was
// to lose. Nothing may be started by a process that has seen it.
var ErrKept = errors.New("caps: a privilege could not be given up")

// DropTo turns a process that root started into one of uid and gid, on every
// thread: no capability in any of the five sets, the supplementary groups given
// and no others, no_new_privs. It then tries to get root back and reads the
// state of each thread from the kernel; anything but a clean answer is
// [ErrKept].
//
// It needs CAP_SETPCAP, CAP_SETUID and CAP_SETGID, which root has, and a program
// without C threads (CGO_ENABLED=0). An error leaves the process half changed.
func DropTo(uid, gid int, groups []int) error {
	if uid <= 0 || gid <= 0 {
		return fmt.Errorf("caps: uid %d and gid %d, expected both above 0", uid, gid)
	}
	last, err := Last()
	if err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"ambient set", func() error { return allThreadsPrctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL) }},
		{"bounding set", func() error { return dropBounding(last) }},
		{"groups", func() error { return syscall.Setgroups(groups) }},
		{"group id", func() error { return syscall.Setresgid(gid, gid, gid) }},
		{"user id", func() error { return syscall.Setresuid(uid, uid, uid) }},
		{"other sets", allThreadsNoCaps},
		{"no_new_privs", func() error { return allThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("caps: giving up root: %s: %w", s.name, err)
		}
	}
	return prove(uid, gid, groups)
}

// Shed gives up every capability of a process that is no root but was given
// some, on every thread and for good; who it is stays. Without CAP_SETPCAP the
// bounding set stays as it is, which no_new_privs makes a list without meaning.
// It then tries to get one back; an answer that is not clean is [ErrKept].
func Shed() error {
	have, err := Read()
	if err != nil {
		return err
	}
	last, err := Last()
	if err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"ambient set", func() error { return allThreadsPrctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL) }},
		{"bounding set", func() error {
			if have.Effective&(1<<unix.CAP_SETPCAP) == 0 {
				return nil
			}
			return dropBounding(last)
		}},
		{"other sets", allThreadsNoCaps},
		{"no_new_privs", func() error { return allThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("caps: giving up capabilities: %s: %w", s.name, err)
		}
	}
	return proveShed()
}

// proveShed is prove for a process that keeps its identity.
func proveShed() error {
	if e := regain(); e != unix.EPERM {
		return fmt.Errorf("%w: capset: %v, expected it to be refused with EPERM", ErrKept, e)
	}
	return eachThread(func(t thread) error {
		if s := t.sets; s.Effective|s.Permitted|s.Inheritable|s.Ambient != 0 {
			return fmt.Errorf("capability sets %+v, expected none", s)
		}
		if !t.noNewPrivs {
			return errors.New("no_new_privs is not set")
		}
		return nil
	})
}

// Last finds the highest capability that the kernel knows.
func Last() (int, error) {
	for c := 0; c < 64; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil {
			if c == 0 {
				return 0, fmt.Errorf("caps: bounding set: %w", err)
			}
			return c - 1, nil
		}
	}
	return 63, nil
}

func dropBounding(last int) error {
	for c := 0; c <= last; c++ {
		if err := allThreadsPrctl(unix.PR_CAPBSET_DROP, uintptr(c)); err != nil {
			return err
		}
	}
	return nil
}

// prove asks the kernel whether the way back is closed.
func prove(uid, gid int, groups []int) error {
	if err := noWayBack(); err != nil {
		return err
	}
	return eachThread(func(t thread) error { return t.is(uid, gid, groups) })
}

// eachThread asks about every thread of the process.
func eachThread(clean func(thread) error) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("caps: %w", err)
	}
	for _, task := range tasks {
		if err := proveThread("self/task/"+task.Name(), clean); err != nil {
			return err
		}
	}
	return nil
}

// noWayBack tries to get root back on the calling thread.
func noWayBack() error {
	for _, way := range waysBack {
		switch e := way.try(); e {
		case unix.EPERM:
		case 0:
			return fmt.Errorf("%w: %s succeeded", ErrKept, way.name)
		default:
			return fmt.Errorf("%w: %s: %w, expected it to be refused with EPERM", ErrKept, way.name, e)
		}
	}
	return nil
}

// proveThread reads what the kernel says about one thread, a directory of
// /proc. One that has ended proves nothing wrong.
func proveThread(dir string, clean func(thread) error) error {
	t, err := readThread("/proc/" + dir + "/status")
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := clean(t); err != nil {
		return fmt.Errorf("%w: thread %s: %w", ErrKept, dir, err)
	}
	return nil
}

// is reports how t differs from an unprivileged thread of that identity.
func (t thread) is(uid, gid int, groups []int) error {
	slices.Sort(t.groups)
	want := slices.Sorted(slices.Values(groups))
	switch {
	case t.uids != [4]int{uid, uid, uid, uid}:
		return fmt.Errorf("user ids %v, expected %d", t.uids, uid)
	case t.gids != [4]int{gid, gid, gid, gid}:
		return fmt.Errorf("group ids %v, expected %d", t.gids, gid)
	case !slices.Equal(t.groups, want):
		return fmt.Errorf("groups %v, expected %v", t.groups, want)
	case !t.sets.Empty():
		return fmt.Errorf("capability sets %+v, expected none", t.sets)
	case !t.noNewPrivs:
		return errors.New("no_new_privs is not set")
	}
	return nil
}

// Harden keeps other processes of the same user from reading this one: no
// ptrace, no /proc/PID/mem, no core file. It holds for the whole process until
// it executes another program.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("caps: dumpable: %w", err)
	}
	l, err := CoreLimit()
	if err == nil {
		err = unix.Setrlimit(unix.RLIMIT_CORE, &l)
	}
	if err != nil {
		return fmt.Errorf("caps: core limit: %w", err)
	}
	return nil
}

// CoreLimit is the limit that lets a crash leave the least behind. 1 byte is less
// than the smallest core file, and the one limit at which the kernel starts no
// handler of cores either (coredump_pipe in fs/coredump.c). Where the caller's
// own limit is 0 it cannot be had.
func CoreLimit() (unix.Rlimit, error) {
	var l unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &l)
	n := min(1, l.Max)
	return unix.Rlimit{Cur: n, Max: n}, err
}
