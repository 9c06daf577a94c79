package probe

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deny is a rule of a profile that a test puts itself behind: what a call gets,
// if the bits of its second argument are all set.
type deny struct {
	nr     uint32
	bits   uint32
	action uint32
}

const (
	toEPERM  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	toENOSYS = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	toKill   = unix.SECCOMP_RET_KILL_PROCESS
	toNotify = unix.SECCOMP_RET_USER_NOTIF
)

// behind puts every thread of the process behind a profile.
func behind(t *testing.T, flags uintptr, rules ...deny) {
	t.Helper()
	var prog []unix.SockFilter
	for _, r := range rules {
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: r.nr, Jf: 4},
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 24}, // low half of the second argument
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: r.bits},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: r.bits, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: r.action})
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH|flags, uintptr(unsafe.Pointer(&f)))
	if e != 0 {
		t.Fatal(e)
	}
}

// TestLayout holds the structures that are handed to the kernel to
// include/uapi/linux/filter.h.
func TestLayout(t *testing.T) {
	if s := unsafe.Sizeof(unix.SockFilter{}); s != 8 {
		t.Errorf("struct sock_filter: %d bytes, want 8", s)
	}
	if s := unsafe.Offsetof(unix.SockFprog{}.Filter); s != 8 {
		t.Errorf("struct sock_fprog: pointer at %d, want 8", s)
	}
}
