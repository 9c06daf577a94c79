package notify

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Request numbers of linux/seccomp.h: _IOWR, _IOW('!', nr, size).
const (
	reqRecv     = unix.SECCOMP_IOCTL_NOTIF_RECV
	reqSend     = unix.SECCOMP_IOCTL_NOTIF_SEND
	reqValid    = 0x40082102 // SECCOMP_IOCTL_NOTIF_ID_VALID
	reqAddFD    = 0x40182103 // SECCOMP_IOCTL_NOTIF_ADDFD
	reqSetFlags = 0x40082104 // SECCOMP_IOCTL_NOTIF_SET_FLAGS
)

// notification is struct seccomp_notif with struct seccomp_data inside.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	errno int32 // negative
	flags uint32
}

// addFD is struct seccomp_notif_addfd.
type addFD struct {
	id         uint64
	flags      uint32
	srcfd      uint32
	newfd      uint32
	newfdFlags uint32
}

// notifSizes is struct seccomp_notif_sizes.
type notifSizes struct {
	notif, resp, data uint16
}

// CheckSizes asks the kernel for the sizes of its structures and returns an error
// when they are not the ones that this package was written for. Call it once,
// before a filter with a listener is installed.
func CheckSizes() error {
	got, err := kernelSizes()
	if err != nil {
		return fmt.Errorf("notify: ask for structure sizes: %w", err)
	}
	want := notifSizes{
		notif: uint16(unsafe.Sizeof(notification{})),
		resp:  uint16(unsafe.Sizeof(response{})),
		data:  uint16(unsafe.Sizeof(notification{}) - unsafe.Offsetof(notification{}.nr)),
	}
	if got != want {
		return fmt.Errorf("notify: kernel structures have sizes %v, expected %v", got, want)
	}
	return nil
}

func kernelSizes() (notifSizes, error) {
	var s notifSizes
	_, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&s)))
	if errno != 0 {
		return s, errno
	}
	return s, nil
}

// ioctlRecv blocks. It goes through syscall.Syscall so that the scheduler may hand
// the processor on; the kernel demands a zeroed buffer each time.
func ioctlRecv(fd int, n *Notification) unix.Errno {
	var raw notification
	_, _, errno := syscall.Syscall(unix.SYS_IOCTL, uintptr(fd), reqRecv, uintptr(unsafe.Pointer(&raw)))
	if errno != 0 {
		return errno
	}
	n.ID, n.TID, n.Nr = raw.id, int(raw.pid), int(raw.nr)
	n.Arch, n.IP, n.Args = raw.arch, raw.ip, raw.args
	return 0
}

// ioctlSend does not sleep but for the listener's mutex, so it skips the scheduler.
func ioctlSend(fd int, r *response) unix.Errno {
	for {
		_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), reqSend, uintptr(unsafe.Pointer(r)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// ioctlValid does not sleep but for the listener's mutex, as ioctlSend.
func ioctlValid(fd int, id uint64) unix.Errno {
	for {
		_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), reqValid, uintptr(unsafe.Pointer(&id)))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// ioctlAddFD sleeps until the caller's thread has taken the descriptor. Only the
// end of this process can interrupt that: a signal to this thread would withdraw
// the request, but with SECCOMP_ADDFD_FLAG_SEND the call counts as answered by
// then, and the caller would return 0, which is another descriptor
// (seccomp_notify_addfd in kernel/seccomp.c). So signals wait meanwhile.
// The goroutine must be locked to its thread.
func ioctlAddFD(fd int, a *addFD) (int, unix.Errno) {
	old, errno := setSignalMask(^uint64(0))
	if errno != 0 {
		return -1, errno
	}
	r, _, errno := syscall.Syscall(unix.SYS_IOCTL, uintptr(fd), reqAddFD, uintptr(unsafe.Pointer(a)))
	setSignalMask(old)
	if errno != 0 {
		return -1, errno
	}
	return int(r), 0
}

// setSignalMask replaces the signals that this thread holds back, a bit for each.
func setSignalMask(mask uint64) (old uint64, errno unix.Errno) {
	_, _, errno = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&mask)), uintptr(unsafe.Pointer(&old)), unsafe.Sizeof(mask), 0, 0)
	return old, errno
}

// ioctlSetFlags passes the flags by value, as the kernel wants them.
func ioctlSetFlags(fd int, flags uint64) unix.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), reqSetFlags, uintptr(flags))
	return errno
}
