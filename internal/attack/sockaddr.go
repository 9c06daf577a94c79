package attack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// parse reads a spec's address; it is the suite's own, so a bad one is a bug.
func parse(s string) netip.AddrPort {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		panic(err)
	}
	return ap
}

// sockaddr encodes an address as the kernel reads it, in the family of its form.
func sockaddr(ap netip.AddrPort) []byte {
	if ap.Addr().Is4() {
		return sockaddr4(ap)
	}
	return sockaddr6(ap)
}

func sockaddr4(ap netip.AddrPort) []byte {
	b := make([]byte, unix.SizeofSockaddrInet4)
	binary.NativeEndian.PutUint16(b, unix.AF_INET)
	binary.BigEndian.PutUint16(b[2:], ap.Port())
	a := ap.Addr().As4()
	copy(b[4:], a[:])
	return b
}

// sockaddr6 also takes a v4 address, in its mapped form.
func sockaddr6(ap netip.AddrPort) []byte {
	b := make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], ap.Port())
	a := ap.Addr().As16()
	copy(b[8:], a[:])
	if z := ap.Addr().Zone(); z != "" {
		if i, err := net.InterfaceByName(z); err == nil {
			binary.NativeEndian.PutUint32(b[24:], uint32(i.Index))
		}
	}
	return b
}

func sockaddrUnix(path string) []byte {
	b := make([]byte, 2, 2+len(path)+1)
	binary.NativeEndian.PutUint16(b, unix.AF_UNIX)
	b = append(b, path...)
	if !strings.HasPrefix(path, "\x00") {
		b = append(b, 0)
	}
	return b
}

func unspecified() []byte {
	return make([]byte, unix.SizeofSockaddrInet4)
}

// at replaces the address of ap and keeps its port.
func at(ap string, addr string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), parse(ap).Port())
}

func familyOf(sa []byte) int { return int(binary.NativeEndian.Uint16(sa)) }

// Sizes and fields of struct msghdr and iovec on 64-bit machines.
const (
	sizeofMsghdr  = 56
	sizeofMmsghdr = 64
)

// msghdr builds a struct msghdr with one buffer in the heap.
func (a *agent) msghdr(name, body, control []byte) []byte {
	iov, iovAt := a.heap.alloc(16)
	binary.NativeEndian.PutUint64(iov, uint64(a.heap.put(body)))
	binary.NativeEndian.PutUint64(iov[8:], uint64(len(body)))
	h, _ := a.heap.alloc(sizeofMmsghdr)
	binary.NativeEndian.PutUint64(h, uint64(a.heap.put(name)))
	binary.NativeEndian.PutUint32(h[8:], uint32(len(name)))
	binary.NativeEndian.PutUint64(h[16:], uint64(iovAt))
	binary.NativeEndian.PutUint64(h[24:], 1)
	binary.NativeEndian.PutUint64(h[32:], uint64(a.heap.put(control)))
	binary.NativeEndian.PutUint64(h[40:], uint64(len(control)))
	return h
}

// high is the upper half of a register that the kernel cuts off.
const high = uintptr(1) << 32

func (a *agent) sendto(fd int, body, to []byte, flags uintptr) error {
	_, err := call(unix.SYS_SENDTO, uintptr(fd), a.heap.put(body), uintptr(len(body)), flags, a.heap.put(to), uintptr(len(to)))
	return err
}

func (a *agent) sendmsg(fd int, body, to []byte, flags uintptr) error {
	_, err := call(unix.SYS_SENDMSG, uintptr(fd), addressOf(a.msghdr(to, body, nil)), flags)
	return err
}

func (a *agent) sendmmsg(fd int, body, to []byte, flags uintptr) error {
	_, err := call(unix.SYS_SENDMMSG, uintptr(fd), addressOf(a.msghdr(to, body, nil)), 1, flags)
	return err
}

// senders are the three ways to name a destination in a send.
var senders = []struct {
	name string
	send func(a *agent, fd int, body, to []byte, flags uintptr) error
}{
	{"sendto", (*agent).sendto},
	{"sendmsg", (*agent).sendmsg},
	{"sendmmsg", (*agent).sendmmsg},
}
