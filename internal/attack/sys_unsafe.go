package attack

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// call makes a system call with every argument as it is given, the upper halves
// of narrow ones included.
func call(nr uintptr, args ...uintptr) (uintptr, error) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, e := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if e != 0 {
		return r, e
	}
	return r, nil
}

// heap is memory for system calls. It comes from mmap and is never freed: no
// garbage collector moves or reuses it while a second thread, or a second
// process, writes to it.
type heap struct {
	block []byte
	used  int
	low   bool // below 4 GiB, for 32-bit calls
}

// heapSize is address space; pages come when they are touched.
const heapSize = 256 << 20

// alloc gives n zero bytes, aligned to 64, and their address.
func (h *heap) alloc(n int) ([]byte, uintptr) {
	if h.block == nil {
		flags := unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
		if h.low {
			flags |= low32
		}
		b, err := unix.Mmap(-1, 0, heapSize, unix.PROT_READ|unix.PROT_WRITE, flags)
		if err != nil {
			panic(err)
		}
		h.block = b
	}
	b := h.block[h.used : h.used+n : h.used+n]
	h.used += (n + 63) &^ 63
	return b, addressOf(b)
}

// put copies b into the heap.
func (h *heap) put(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	to, at := h.alloc(len(b))
	copy(to, b)
	return at
}

// text copies s with its terminating zero byte.
func (h *heap) text(s string) uintptr { return h.put(append([]byte(s), 0)) }

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// word is the 8 bytes at the start of b as one number that two threads can
// share.
func word(b []byte) *uint64 { return (*uint64)(unsafe.Pointer(unsafe.SliceData(b))) }
