package gate

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// maxSockaddr is the size of the kernel's struct sockaddr_storage: no call takes more.
const maxSockaddr = 128

// sockaddr is what the agent wrote into memory, copied once.
type sockaddr struct {
	family   uint16
	inet     netip.AddrPort // AF_INET, AF_INET6; a v4-mapped address is unmapped, a zone is dropped
	scope    uint32         // sin6_scope_id
	path     string         // AF_UNIX with a path, or the name of an abstract one
	abstract bool           // AF_UNIX in the abstract namespace, or autobind
	pid      uint32         // AF_NETLINK
	groups   uint32         // AF_NETLINK

	size  int        // bytes that the caller gave
	errno unix.Errno // why it is no address of its family
}

// leastConnect are the shortest addresses that connect takes, by the kind of socket;
// they are looked at before the family (inet_stream_connect, tcp_v6_connect,
// unix_validate_addr, netlink_connect).
var leastConnect = map[kind]int{
	kindStream4: unix.SizeofSockaddrInet4, kindStream6: sizeofInet6Short, kindUnix: 3, kindMessage: 3, kindNetlink: unix.SizeofSockaddrNetlink,
}

// sizeofInet6Short is SIN6_LEN_RFC2133, an address without a scope.
const sizeofInet6Short = 24

// forConnect says what the kernel would find wrong with the address, before it
// means anything.
func (s sockaddr) forConnect(k kind) unix.Errno {
	local := k == kindUnix || k == kindMessage
	switch {
	case s.size < 2:
		return unix.EINVAL
	case s.family == unix.AF_UNSPEC && k != kindUnix:
		return 0
	case s.size < leastConnect[k], local && s.family != unix.AF_UNIX, k == kindNetlink && s.family != unix.AF_NETLINK:
		return unix.EINVAL
	case k == kindStream4 && s.family != unix.AF_INET, k == kindStream6 && s.family != unix.AF_INET6:
		return unix.EAFNOSUPPORT
	}
	return s.errno
}

// forBind is the same for bind, by __inet_bind, __inet6_bind, unix_bind and netlink_bind.
func (s sockaddr) forBind(k kind) unix.Errno {
	switch least := leastConnect[k]; {
	case k == kindDatagram:
		return s.errno
	case k == kindUnix && s.size == 2 && s.family == unix.AF_UNIX:
		return 0 // the kernel chooses a name
	case s.size < least:
		return unix.EINVAL
	case k == kindStream4 && s.family == unix.AF_UNSPEC && s.inet.Addr().IsUnspecified():
		return 0
	case k == kindStream4 && s.family != unix.AF_INET, k == kindStream6 && s.family != unix.AF_INET6:
		return unix.EAFNOSUPPORT
	case (k == kindUnix || k == kindMessage) && s.family != unix.AF_UNIX, k == kindNetlink && s.family != unix.AF_NETLINK:
		return unix.EINVAL
	}
	return s.errno
}

// parseSockaddr reads a socket address as the kernel would: the family in host
// order, port and addresses in network order, lengths as in inet_bind_sk,
// inet6_bind, unix_validate_addr and netlink_bind.
func parseSockaddr(b []byte) (sockaddr, unix.Errno) {
	var s sockaddr
	if len(b) < 2 || len(b) > maxSockaddr {
		return s, unix.EINVAL
	}
	s.family = binary.NativeEndian.Uint16(b)
	switch s.family {
	case unix.AF_UNSPEC:
		s, _ = parseInet4(s, b) // bind takes the wildcard so
		return s, 0
	case unix.AF_INET:
		return parseInet4(s, b)
	case unix.AF_INET6:
		return parseInet6(s, b)
	case unix.AF_UNIX:
		return parseUnix(s, b)
	case unix.AF_NETLINK:
		if len(b) < unix.SizeofSockaddrNetlink {
			return s, unix.EINVAL
		}
		s.pid, s.groups = binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[8:])
		return s, 0
	}
	return s, unix.EAFNOSUPPORT
}

func parseInet4(s sockaddr, b []byte) (sockaddr, unix.Errno) {
	if len(b) < unix.SizeofSockaddrInet4 {
		return s, unix.EINVAL
	}
	s.inet = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
	return s, 0
}

// parseInet6 takes the short form without a scope too (SIN6_LEN_RFC2133, 24 bytes).
func parseInet6(s sockaddr, b []byte) (sockaddr, unix.Errno) {
	if len(b) < sizeofInet6Short {
		return s, unix.EINVAL
	}
	if len(b) >= unix.SizeofSockaddrInet6 {
		s.scope = binary.NativeEndian.Uint32(b[24:])
	}
	a := netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	s.inet = netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[2:]))
	return s, 0
}

func parseUnix(s sockaddr, b []byte) (sockaddr, unix.Errno) {
	if len(b) > unix.SizeofSockaddrUnix {
		return s, unix.EINVAL
	}
	p := b[2:]
	if len(p) == 0 || p[0] == 0 {
		s.abstract, s.path = true, string(p[min(1, len(p)):])
		return s, 0
	}
	for i, c := range p {
		if c == 0 {
			p = p[:i]
			break
		}
	}
	s.path = string(p)
	return s, 0
}

// sockaddrOf is a socket address as the kernel writes it; an IPv6 socket sees an
// IPv4 address in its mapped form.
func sockaddrOf(a netip.AddrPort, six bool) []byte {
	b := make([]byte, unix.SizeofSockaddrInet4)
	family, at, ip := uint16(unix.AF_INET), 4, a.Addr().AsSlice()
	if six {
		all := a.Addr().As16()
		b = make([]byte, unix.SizeofSockaddrInet6)
		family, at, ip = unix.AF_INET6, 8, all[:]
	}
	binary.NativeEndian.PutUint16(b, family)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	copy(b[at:], ip)
	return b
}
