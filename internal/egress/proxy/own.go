package proxy

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ownAddress asks the kernel whether a packet to a would stay on this host, by
// the routing table that a connection would use. An address that cannot be
// asked about is taken for one of our own: it is not dialled.
//
// Where the kernel has no routing socket, as in some user-mode kernels, the
// question has no answer and is not asked: the addresses that are always local
// are refused elsewhere.
func ownAddress(a netip.Addr) bool {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err != unix.EAFNOSUPPORT && err != unix.EPROTONOSUPPORT
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, routeQuery(a), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err != unix.EOPNOTSUPP
	}
	var buf [512]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return true
	}
	return isOwnRoute(buf[:n])
}

// routeQuery is RTM_GETROUTE for one destination, rtnetlink(7).
func routeQuery(a netip.Addr) []byte {
	dst := a.AsSlice()
	family := byte(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	b := make([]byte, 0, unix.SizeofNlMsghdr+unix.SizeofRtMsg+unix.SizeofRtAttr+16)
	e := binary.NativeEndian
	b = e.AppendUint32(b, uint32(unix.SizeofNlMsghdr+unix.SizeofRtMsg+unix.SizeofRtAttr+len(dst)))
	b = e.AppendUint16(b, unix.RTM_GETROUTE)
	b = e.AppendUint16(b, unix.NLM_F_REQUEST)
	b = e.AppendUint32(b, 1)                                  // sequence
	b = e.AppendUint32(b, 0)                                  // port
	b = append(b, family, byte(len(dst)*8), 0, 0, 0, 0, 0, 0) // struct rtmsg up to its flags
	b = e.AppendUint32(b, 0)
	b = e.AppendUint16(b, uint16(unix.SizeofRtAttr+len(dst)))
	b = e.AppendUint16(b, unix.RTA_DST)
	return append(b, dst...)
}

// isOwnRoute reads the answer. No route at all is not our own: dialling says so.
func isOwnRoute(b []byte) bool {
	if len(b) < unix.SizeofNlMsghdr {
		return true
	}
	switch e := binary.NativeEndian; e.Uint16(b[4:]) {
	case unix.NLMSG_ERROR:
		if len(b) < unix.SizeofNlMsghdr+4 {
			return true
		}
		switch errno := unix.Errno(-int32(e.Uint32(b[unix.SizeofNlMsghdr:]))); errno {
		case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EOPNOTSUPP:
			return false
		}
		return true
	case unix.RTM_NEWROUTE:
		if len(b) < unix.SizeofNlMsghdr+unix.SizeofRtMsg {
			return true
		}
		switch b[unix.SizeofNlMsghdr+7] { // rtm_type
		case unix.RTN_UNICAST, unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT:
			return false
		}
		return true
	}
	return true
}
