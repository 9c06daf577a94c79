package stage

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// firstFree is the number that the next descriptor gets once those below the
// sources are closed; 0, 1 and 2 are always open in a Go program.
const firstFree = 3

// ownSteps make a user namespace, in it a network namespace with nothing but a
// loopback interface, and give up every capability that came with the first.
// The user and the group keep their numbers: the agent owns the same files.
//
// A process that is not dumpable owns no file below /proc/self, so it is
// dumpable until the maps are written. Nothing that could look runs yet.
func ownSteps(p *program, uid, gid, lastCap int) []Step {
	t := []Step{
		prctl("opening /proc to the guard", unix.PR_SET_DUMPABLE, 1),
		closeRange("freeing descriptors", firstFree, firstSource-1),
		{Name: StepNamespaces, Nr: unix.SYS_UNSHARE, Args: [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_NEWNET}},
	}
	// Without "deny" an unprivileged user may not map a group, user_namespaces(7).
	t = append(t, writeSteps(p, StepMap, "/proc/self/setgroups", "deny")...)
	t = append(t, writeSteps(p, StepMap, "/proc/self/uid_map", fmt.Sprintf("%d %d 1", uid, uid))...)
	t = append(t, writeSteps(p, StepMap, "/proc/self/gid_map", fmt.Sprintf("%d %d 1", gid, gid))...)
	t = append(t, loopbackSteps(p)...)
	for c := 0; c <= lastCap; c++ {
		t = append(t, prctl("emptying the bounding set", unix.PR_CAPBSET_DROP, uintptr(c)))
	}
	header, none := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &[2]unix.CapUserData{}
	return append(t,
		Step{Name: "giving up capabilities", Nr: unix.SYS_CAPSET, Args: [6]uintptr{ptr(p, header), ptr(p, none)}},
		prctl("closing /proc to others", unix.PR_SET_DUMPABLE, 0))
}

// writeSteps write text to a file in one call, as files of /proc want it.
func writeSteps(p *program, name, path, text string) []Step {
	b := append([]byte(path), 0)
	t := []byte(text)
	p.keep = append(p.keep, b, t)
	return []Step{
		{Name: name, Nr: unix.SYS_OPENAT, Args: [6]uintptr{atFDCWD, uintptr(unsafe.Pointer(&b[0])), unix.O_WRONLY | unix.O_CLOEXEC}, Want: firstFree},
		{Name: name, Nr: unix.SYS_WRITE, Args: [6]uintptr{firstFree, uintptr(unsafe.Pointer(&t[0])), uintptr(len(t))}, Want: int64(len(t))},
		closeFD(name, firstFree),
	}
}

// ifreq is struct ifreq of linux/if.h with ifr_flags, 40 bytes on 64-bit machines.
type ifreq struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

func loopbackSteps(p *program) []Step {
	r := &ifreq{flags: unix.IFF_UP | unix.IFF_RUNNING}
	copy(r.name[:], "lo")
	return []Step{
		{Name: StepLoopback, Nr: unix.SYS_SOCKET, Args: [6]uintptr{unix.AF_INET, unix.SOCK_DGRAM | unix.SOCK_CLOEXEC}, Want: firstFree},
		{Name: StepLoopback, Nr: unix.SYS_IOCTL, Args: [6]uintptr{firstFree, unix.SIOCSIFFLAGS, ptr(p, r)}},
		closeFD(StepLoopback, firstFree),
	}
}
