package attack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// namesRace turns where an address goes, or how much room there is for it, while it
// is being written. Nothing is judged there; what must hold is that nothing beside the
// places that were named changes, by whoever writes.
func namesRace(a *agent) {
	const room, around = unix.SizeofSockaddrInet4, 64
	tcp, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		a.try("getpeername", func() error { return faultf("socket: %w", err) })
		return
	}
	defer unix.Close(tcp)
	if a.connect(tcp, sockaddr(parse(a.TCP4))) != nil {
		a.connect(tcp, sockaddr(parse(a.Proxy))) // where the other one is not even captured
	}
	udp, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		a.try("recvfrom", func() error { return faultf("socket: %w", err) })
		return
	}
	defer unix.Close(udp)
	a.connect(udp, sockaddr(netip.MustParseAddrPort("127.0.0.1:53"))) // so that there is an address to be told
	one, first := a.heap.alloc(around)
	two, second := a.heap.alloc(around)
	size, sizeAt := a.heap.alloc(8)
	head, headAt := a.heap.alloc(56) // struct msghdr
	_, bodyAt := a.heap.alloc(16)
	copy(head[16:], number64(a.heap.put(append(number64(bodyAt), number64(16)...))))
	binary.NativeEndian.PutUint64(head[24:], 1)
	binary.NativeEndian.PutUint32(head[8:], room)
	kept := bytes.Repeat([]byte{0x5a}, around-room)
	whole := func(name string, do func()) {
		a.try(name, func() error {
			n, end := a.Races, time.Now().Add(raceBudget)
			if n == 0 {
				n = DefaultRaces / 10
			}
			done := 0
			for ; done < n && (done%64 != 0 || time.Now().Before(end)); done++ {
				copy(one[room:], kept)
				copy(two[room:], kept)
				do()
				if !bytes.Equal(one[room:], kept) || !bytes.Equal(two[room:], kept) {
					return &refusal{"spilled", ""}
				}
			}
			return foundf("%d calls", done)
		})
	}
	stop := flipping(size, 2, room)
	whole("getpeername", func() { call(unix.SYS_GETPEERNAME, uintptr(tcp), first, sizeAt) })
	whole("getsockname", func() { call(unix.SYS_GETSOCKNAME, uintptr(udp), first, sizeAt) })
	whole("recvfrom", func() { call(unix.SYS_RECVFROM, uintptr(udp), bodyAt, 16, unix.MSG_DONTWAIT, first, sizeAt) })
	stop()
	stop = flipping(head, uint64(first), uint64(second))
	whole("recvmsg", func() { call(unix.SYS_RECVMSG, uintptr(udp), headAt, unix.MSG_DONTWAIT) })
	stop()
}
