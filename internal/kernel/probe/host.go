package probe

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host finds every fact. It makes a few children that live for milliseconds.
func Host() (Facts, error) {
	f, err := Quick()
	if err != nil {
		return f, err
	}
	o := observe()
	f.ProcMem, f.ProcFD, f.ProcessVMReadv = o.procMem, o.procFD, o.vmReadv
	f.PidfdOpen, f.PidfdGetfd = o.pidfdOpen, o.pidfdGetfd
	f.SeccompNotify = o.SeccompNotify
	f.UserNS, f.UserNet = userNS()
	f.NetNS = netNS()
	if f.BlockedSyscalls, err = blocked(); err != nil {
		return f, err
	}
	f.CgroupVersion = cgroupVersion()
	own, _ := os.ReadFile("/proc/self/cgroup")
	f.PIDLimit = pidLimit("/sys/fs/cgroup", string(own))
	f.UserKernel = userKernel(kernelLog(), cpuInfo())
	f.GVisor = f.UserKernel == gVisor
	return f, nil
}

func wordOf(b [8]byte) uint64 { return binary.NativeEndian.Uint64(b[:]) }

func cgroupVersion() int {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) != nil {
		return 0
	}
	switch int64(st.Type) {
	case unix.CGROUP2_SUPER_MAGIC:
		return 2
	case unix.TMPFS_MAGIC: // the hierarchies of version 1 are mounted in it
		return 1
	}
	return 0
}

// pidLimit is the smallest pids.max between a process's cgroup, which own names
// in the form of /proc/self/cgroup, and the root of its hierarchy below mount.
// In a container the path may lead to nothing; then the root is all there is.
func pidLimit(mount, own string) int64 {
	limit, _ := pidRoom(mount, own)
	return limit
}

// PIDRoom is how many more processes and threads this cgroup may have, and the
// limit that says so; -1 and -1 where there is none. It costs a few reads.
func PIDRoom() (limit, room int64) {
	own, _ := os.ReadFile("/proc/self/cgroup")
	return pidRoom("/sys/fs/cgroup", string(own))
}

// TaskLimits are the limits of processes and threads that are not a cgroup's: of the
// kernel, of its numbers and of this user; -1 for none, or for one that cannot be read.
func TaskLimits() (limits [3]int64) {
	limits = [3]int64{pidsMax("/proc/sys/kernel/threads-max"), pidsMax("/proc/sys/kernel/pid_max"), -1}
	var user unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &user); err == nil && user.Cur < math.MaxInt64 {
		limits[2] = int64(user.Cur)
	}
	return limits
}

func pidRoom(mount, own string) (limit, room int64) {
	limit, room = -1, -1
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var root string
		switch {
		case parts[1] == "": // version 2
			root = mount
		case strings.Contains(","+parts[1]+",", ",pids,"):
			root = filepath.Join(mount, "pids")
		default:
			continue
		}
		for dir := filepath.Clean("/" + parts[2]); ; dir = filepath.Dir(dir) {
			n := pidsMax(filepath.Join(root, dir, "pids.max"))
			if n >= 0 && (limit < 0 || n < limit) {
				limit = n
			}
			left := max(0, n-max(0, pidsMax(filepath.Join(root, dir, "pids.current"))))
			if n >= 0 && (room < 0 || left < room) {
				room = left
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit, room
}

// pidsMax reads a number; -1 for "max" and for a file that is not there.
func pidsMax(name string) int64 {
	b, err := os.ReadFile(name)
	if err != nil {
		return -1
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

const gVisor = "gVisor"

// userKernel names a kernel that is itself a program of another kernel, by what
// it says in its log and about its processor.
func userKernel(log, cpu []byte) string {
	switch {
	case bytes.Contains(log, []byte("Starting gVisor")):
		return gVisor
	case bytes.Contains(cpu, []byte("User Mode Linux")):
		return "User Mode Linux"
	}
	return ""
}

// kernelLog is the end of the kernel's log, or nothing where it may not be
// read. gVisor lets everybody read it.
func kernelLog() []byte {
	b := make([]byte, 8<<10)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	if err != nil || n < 0 {
		return nil
	}
	return b[:n]
}

func cpuInfo() []byte {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, 1<<10)
	n, _ := f.Read(b)
	return b[:n]
}
