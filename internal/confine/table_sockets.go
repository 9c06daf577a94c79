package confine

import (
	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
	"sallyport/internal/kernel/seccomp"
)

// socketRules say which sockets there are. The kernel takes domain, type and
// protocol as ints, so only their low halves count, here as there.
func socketRules(gate bool) []seccomp.Rule {
	brokered, datagram := seccomp.Notify, seccomp.Notify
	if !gate {
		brokered, datagram = seccomp.Allow, refuse(unix.EACCES)
	}
	domain, typ, protocol := seccomp.Int(0), seccomp.Int(1), seccomp.Int(2)
	kind := typ.And(0xf) // SOCK_TYPE_MASK
	inet := domain.Is(unix.AF_INET, unix.AF_INET6)
	local := domain.Is(unix.AF_UNIX)
	netlink := domain.Is(unix.AF_NETLINK)
	socket := on("socket")
	return []seccomp.Rule{
		{Name: "unknown type bits", Calls: socket, When: when(typ.Has(0xffffffff &^ (0xf | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC))), Do: refuse(unix.EINVAL),
			Why: "the kernel says the same; a flag of a later kernel must not change what the rows below mean"},
		{Name: "TCP", Calls: socket, When: when(inet, kind.Is(unix.SOCK_STREAM), protocol.Is(0, unix.IPPROTO_TCP)), Do: brokered,
			Why: "the gate makes the socket, so that it holds its twin when it is connected"},
		{Name: "UDP", Calls: socket, When: when(inet, kind.Is(unix.SOCK_DGRAM), protocol.Is(0, unix.IPPROTO_UDP)), Do: datagram,
			Why: "the gate hands out a packet pair to the policy DNS: a UDP socket obeys the name in any message"},
		{Name: "unix stream", Calls: socket, When: when(local, kind.Is(unix.SOCK_STREAM, unix.SOCK_SEQPACKET), protocol.Is(0)), Do: brokered,
			Why: "Landlock holds pathname sockets from ABI 9 on only; docker, D-Bus and agents live there"},
		{Name: "unix datagram", Calls: socket, When: when(local, kind.Is(unix.SOCK_DGRAM), protocol.Is(0)), Do: datagram,
			Why: "it obeys the name in any message, also when it is connected; the gate refuses it with a reason"},
		{Name: "route netlink", Calls: socket, When: when(netlink, kind.Is(unix.SOCK_RAW, unix.SOCK_DGRAM), protocol.Is(unix.NETLINK_ROUTE)), Do: brokered,
			Why: "getifaddrs reads interfaces and routes; changing them needs a capability"},
		{Name: "ping", Calls: socket, When: when(inet, kind.Is(unix.SOCK_DGRAM), protocol.Is(unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6)), Do: refuse(unix.EACCES),
			Why: "an echo request carries data anywhere; the errno is that of a user outside of ping_group_range"},
		{Name: "raw IP", Calls: socket, When: when(inet, kind.Is(unix.SOCK_RAW)), Do: refuse(unix.EPERM),
			Why: "packets of any content to anywhere"},
		{Name: "other IP protocols", Calls: socket, When: when(inet, kind.Is(unix.SOCK_STREAM, unix.SOCK_DGRAM)), Do: refuse(unix.EPROTONOSUPPORT),
			Why: "MPTCP, SCTP and UDP-Lite pass Landlock's port rules; Go and others fall back from MPTCP to TCP on this errno"},
		{Name: "other IP types", Calls: socket, When: when(inet), Do: refuse(unix.ESOCKTNOSUPPORT),
			Why: "SCTP and DCCP have types of their own"},
		{Name: "other unix types", Calls: socket, When: when(local, protocol.Is(0)), Do: refuse(unix.ESOCKTNOSUPPORT),
			Why: "the kernel makes a datagram socket of SOCK_RAW"},
		{Name: "other unix protocols", Calls: socket, When: when(local), Do: refuse(unix.EPROTONOSUPPORT),
			Why: "there is one; nobody names it"},
		{Name: "other netlink buses", Calls: socket, When: when(netlink), Do: refuse(unix.EPROTONOSUPPORT),
			Why: "audit, netfilter, crypto, uevents: kernel interfaces that no agent needs; libaudit takes this errno as a kernel without"},
		{Name: "other families", Calls: socket, Do: refuse(unix.EAFNOSUPPORT),
			Why: "VSOCK, PACKET, ALG, XDP, CAN, TIPC, RDS, SMC, Bluetooth and what comes: ways out or large attack surface"},
		{Name: "unix pair", Calls: on("socketpair"), When: when(local, kind.Is(unix.SOCK_STREAM, unix.SOCK_SEQPACKET)), Do: seccomp.Allow,
			Why: "both ends are inside, and neither kind can be sent elsewhere by a name"},
		{Name: "other pairs", Calls: on("socketpair"), Do: refuse(unix.EOPNOTSUPP),
			Why: "one end of a unix datagram pair still sends to any name in a message"},
		{Name: "destination", Calls: on("connect", "bind", "listen"), Do: brokered,
			Why: "the gate judges a copy of the address and makes the call itself; listen binds a port where bind did not"},
		{Name: "accept", Calls: on("accept", "accept4"), Do: seccomp.Allow,
			Why: "only on a socket that the gate let listen"},
	}
}

// sendRules say what a message may carry.
func sendRules(gated bool) []seccomp.Rule {
	brokered := seccomp.Notify
	if !gated {
		brokered = seccomp.Allow
	}
	const fastOpen = "connects past Landlock's hook; the errno is that of a kernel with Fast Open turned off, and clients connect instead"
	return []seccomp.Rule{
		{Name: "Fast Open", Calls: on("sendto", "sendmmsg"), When: when(seccomp.Int(3).Has(unix.MSG_FASTOPEN)), Do: refuse(unix.EOPNOTSUPP), Why: fastOpen},
		{Name: "Fast Open", Calls: on("sendmsg"), When: when(seccomp.Int(2).Has(unix.MSG_FASTOPEN)), Do: refuse(unix.EOPNOTSUPP), Why: fastOpen},
		{Name: "send to an address", Calls: on("sendto"), When: when(seccomp.Word(4).IsNot(0)), Do: brokered,
			Why: "an address was named, in a register that shows it"},
		{Name: "send", Calls: on("sendto", "sendmsg", "sendmmsg"), Do: seccomp.Allow,
			Why: "no socket inside obeys a name in a message: streams are connected by the gate, datagram sockets are packet pairs"},
		{Name: "receive with a source", Calls: on("recvfrom"), When: when(seccomp.Word(4).IsNot(0)), Do: brokered,
			Why: "the gate tells a resolver that its name server has answered, and lets the call go on: a receive is not judged"},
		{Name: "receive on a stand-in", Calls: on("recvmsg"), When: when(onStandIn), Do: brokered,
			Why: "as above; where the source goes is in memory, so that the number has to tell what the socket is"},
		{Name: "receive", Calls: on("recvfrom", "recvmsg", "recvmmsg"), Do: seccomp.Allow,
			Why: "happens on a socket that was granted, and names nobody"},
		{Name: "own address of a stand-in", Calls: on("getsockname"), When: when(onStandIn), Do: brokered,
			Why: "c-ares gives up on a socket without an IP address; the gate answers for a stand-in and lets others go on"},
		{Name: "other end", Calls: on("getpeername"), Do: brokered,
			Why: "a captured connection ends at the proxy and was asked for elsewhere; the gate names that, and lets the call go on for any other"},
	}
}

// onStandIn is true of the descriptor numbers of stand-ins. A program may put
// another socket there; nothing is granted by the number.
var onStandIn = seccomp.Int(0).And(gate.StandInMask).Is(gate.StandInFirst)

// Socket options that golang.org/x/sys/unix has no name for.
const (
	ipv6HopOpts2292  = 3 // IPV6_2292HOPOPTS
	ipv6DstOpts2292  = 4 // IPV6_2292DSTOPTS
	ipv6RtHdr2292    = 5 // IPV6_2292RTHDR
	ipv6Options2292  = 6 // IPV6_2292PKTOPTIONS
	multicastJoin    = 42
	multicastSource  = 46 // MCAST_JOIN_SOURCE_GROUP
	multicastFilter  = 48 // MCAST_MSFILTER
	ipMulticastSlots = 41 // IP_MSFILTER
)

// optionRules refuse the socket options by which a connection to loopback would
// leave the machine, or something else than its bytes would. The owner of a socket may
// set them at any time, also after the gate connected it.
func optionRules() []seccomp.Rule {
	setsockopt := on("setsockopt")
	option := func(level uint64, names ...uint64) []seccomp.Cond {
		return when(seccomp.Int(1).Is(level), seccomp.Int(2).Is(names...))
	}
	const joins = "a membership is announced on the wire, with a group of the agent's choice; the newer options work on TCP sockets too"
	return []seccomp.Rule{
		{Name: "errors of a stand-in, IPv4", Calls: setsockopt, When: append(option(unix.SOL_IP, unix.IP_RECVERR), onStandIn), Do: seccomp.Pretend,
			Why: "glibc asks for ICMP errors before its first query, and gives up where it cannot; a packet pair has none to report"},
		{Name: "errors of a stand-in, IPv6", Calls: setsockopt, When: append(option(unix.SOL_IPV6, unix.IPV6_RECVERR), onStandIn), Do: seccomp.Pretend,
			Why: "as for IPv4: where the option fails, glibc asks nobody"},
		{Name: "device", Calls: setsockopt, When: option(unix.SOL_SOCKET, unix.SO_BINDTODEVICE, unix.SO_BINDTOIFINDEX, unix.SO_MARK), Do: refuse(unix.EPERM),
			Why: "sends a connection to 127.0.0.1 out of another device, where a neighbour may answer"},
		{Name: "IPv4 route", Calls: setsockopt, When: option(unix.SOL_IP, unix.IP_OPTIONS, unix.IP_UNICAST_IF, unix.IP_TRANSPARENT), Do: refuse(unix.EPERM),
			Why: "a source route has another next hop than the address that the gate connected to"},
		{Name: "IPv4 groups", Calls: setsockopt, When: option(unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, unix.IP_ADD_SOURCE_MEMBERSHIP, ipMulticastSlots,
			multicastJoin, multicastSource, multicastFilter), Do: refuse(unix.EPERM), Why: joins},
		{Name: "IPv6 route", Calls: setsockopt, When: option(unix.SOL_IPV6, unix.IPV6_RTHDR, ipv6RtHdr2292, ipv6Options2292, unix.IPV6_RTHDRDSTOPTS,
			unix.IPV6_HOPOPTS, unix.IPV6_DSTOPTS, ipv6HopOpts2292, ipv6DstOpts2292, unix.IPV6_PKTINFO, unix.IPV6_UNICAST_IF, unix.IPV6_TRANSPARENT), Do: refuse(unix.EPERM),
			Why: "a segment routing header needs no capability and sends each packet to an address of the agent's choice first"},
		{Name: "IPv6 groups", Calls: setsockopt, When: option(unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, unix.IPV6_JOIN_ANYCAST,
			multicastJoin, multicastSource, multicastFilter), Do: refuse(unix.EPERM), Why: joins},
		{Name: "Fast Open connect", Calls: setsockopt, When: option(unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT), Do: refuse(unix.EOPNOTSUPP),
			Why: "puts the connection off to the first write; the gate books it when it is made"},
		{Name: "repair", Calls: setsockopt, When: option(unix.SOL_TCP, unix.TCP_REPAIR), Do: refuse(unix.EPERM),
			Why: "makes a connected socket without a connection; needs a capability, so this is a second wall"},
		{Name: "upper layer", Calls: setsockopt, When: option(unix.SOL_TCP, unix.TCP_ULP), Do: refuse(unix.ENOENT),
			Why: "the layer smc makes another kind of socket out of a TCP socket; TLS libraries do without kernel TLS"},
	}
}
