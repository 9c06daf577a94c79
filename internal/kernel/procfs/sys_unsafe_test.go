package procfs

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

// TestLayout holds the structures that are handed to the kernel to its sizes
// (struct iovec of include/uapi/linux/uio.h on a 64-bit machine).
func TestLayout(t *testing.T) {
	if s := unsafe.Sizeof(unix.Iovec{}); s != 16 {
		t.Errorf("struct iovec: %d bytes, want 16", s)
	}
	if s := unsafe.Sizeof(unix.RemoteIovec{}); s != 16 {
		t.Errorf("remote struct iovec: %d bytes, want 16", s)
	}
	if fd := atFDCWD; int(fd) != unix.AT_FDCWD {
		t.Errorf("atFDCWD = %d, want %d", int(fd), unix.AT_FDCWD)
	}
}
