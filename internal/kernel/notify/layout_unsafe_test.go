package notify

import (
	"testing"
	"unsafe"
)

// The sizes are part of the ioctl numbers and of the kernel's ABI.
func TestLayout(t *testing.T) {
	tests := []struct {
		name      string
		got, want uintptr
	}{
		{"seccomp_notif", unsafe.Sizeof(notification{}), 80},
		{"seccomp_notif.data", unsafe.Offsetof(notification{}.nr), 16},
		{"seccomp_notif.data.args", unsafe.Offsetof(notification{}.args), 32},
		{"seccomp_notif_resp", unsafe.Sizeof(response{}), 24},
		{"seccomp_notif_addfd", unsafe.Sizeof(addFD{}), 24},
		{"seccomp_notif_sizes", unsafe.Sizeof(notifSizes{}), 6},
		{"RECV", reqRecv, ioc(3, unsafe.Sizeof(notification{}), 0)},
		{"SEND", reqSend, ioc(3, unsafe.Sizeof(response{}), 1)},
		{"ID_VALID", reqValid, ioc(1, 8, 2)},
		{"ADDFD", reqAddFD, ioc(1, unsafe.Sizeof(addFD{}), 3)},
		{"SET_FLAGS", reqSetFlags, ioc(1, 8, 4)},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%s = %#x, want %#x", tt.name, tt.got, tt.want)
		}
	}
	if err := CheckSizes(); err != nil {
		t.Error(err)
	}
}

// ioc is _IOC(dir, '!', nr, size) with 1 for write and 3 for both.
func ioc(dir, size, nr uintptr) uintptr {
	return dir<<30 | size<<16 | '!'<<8 | nr
}
