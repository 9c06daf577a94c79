package confine

import (
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/seccomp"
)

// junk is put into the upper half of every argument that the kernel takes as an
// int. A filter that compared all 64 bits would be passed by it.
const junk = 0x5a11_0000_0000_0000 | 0x7<<32

// TestDecisions says call by call what the filter does, in the words of the calls
// and not of the table.
func TestDecisions(t *testing.T) {
	const (
		allow, notify = seccomp.Allow, seccomp.Notify
		nonblock      = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	)
	type args = [6]uint64
	e := seccomp.Errno
	tests := []struct {
		name string
		call string
		args args
		want seccomp.Action
	}{
		{"tcp4", "socket", args{unix.AF_INET, unix.SOCK_STREAM, 0}, notify},
		{"tcp6 by name", "socket", args{unix.AF_INET6, unix.SOCK_STREAM | nonblock, unix.IPPROTO_TCP}, notify},
		{"udp4", "socket", args{unix.AF_INET, unix.SOCK_DGRAM | nonblock, 0}, notify},
		{"udp6 by name", "socket", args{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, notify},
		{"stream of udp", "socket", args{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_UDP}, e(unix.EPROTONOSUPPORT)},
		{"mptcp", "socket", args{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, e(unix.EPROTONOSUPPORT)},
		{"mptcp6", "socket", args{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, e(unix.EPROTONOSUPPORT)},
		{"smc by protocol", "socket", args{unix.AF_INET, unix.SOCK_STREAM, 256}, e(unix.EPROTONOSUPPORT)},
		{"sctp", "socket", args{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, e(unix.EPROTONOSUPPORT)},
		{"sctp seqpacket", "socket", args{unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP}, e(unix.ESOCKTNOSUPPORT)},
		{"dccp", "socket", args{unix.AF_INET, unix.SOCK_DCCP, unix.IPPROTO_DCCP}, e(unix.ESOCKTNOSUPPORT)},
		{"udplite", "socket", args{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE}, e(unix.EPROTONOSUPPORT)},
		{"ping", "socket", args{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, e(unix.EACCES)},
		{"ping6", "socket", args{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6}, e(unix.EACCES)},
		{"raw", "socket", args{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW}, e(unix.EPERM)},
		{"raw6", "socket", args{unix.AF_INET6, unix.SOCK_RAW, 0}, e(unix.EPERM)},
		{"sock_packet", "socket", args{unix.AF_INET, unix.SOCK_PACKET, 0}, e(unix.ESOCKTNOSUPPORT)},
		{"new type bit", "socket", args{unix.AF_INET, unix.SOCK_STREAM | 0x10, 0}, e(unix.EINVAL)},
		{"top type bit", "socket", args{unix.AF_INET, unix.SOCK_STREAM | 1<<31, 0}, e(unix.EINVAL)},
		{"unix stream", "socket", args{unix.AF_UNIX, unix.SOCK_STREAM | nonblock, 0}, notify},
		{"unix seqpacket", "socket", args{unix.AF_UNIX, unix.SOCK_SEQPACKET, 0}, notify},
		{"unix datagram", "socket", args{unix.AF_UNIX, unix.SOCK_DGRAM, 0}, notify},
		{"unix raw is datagram", "socket", args{unix.AF_UNIX, unix.SOCK_RAW, 0}, e(unix.ESOCKTNOSUPPORT)},
		{"unix protocol", "socket", args{unix.AF_UNIX, unix.SOCK_STREAM, 1}, e(unix.EPROTONOSUPPORT)},
		{"netlink route", "socket", args{unix.AF_NETLINK, unix.SOCK_RAW | nonblock, unix.NETLINK_ROUTE}, notify},
		{"netlink route datagram", "socket", args{unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_ROUTE}, notify},
		{"netlink audit", "socket", args{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}, e(unix.EPROTONOSUPPORT)},
		{"netlink uevent", "socket", args{unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_KOBJECT_UEVENT}, e(unix.EPROTONOSUPPORT)},
		{"netlink netfilter", "socket", args{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, e(unix.EPROTONOSUPPORT)},
		{"packet", "socket", args{unix.AF_PACKET, unix.SOCK_RAW, 0}, e(unix.EAFNOSUPPORT)},
		{"vsock", "socket", args{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, e(unix.EAFNOSUPPORT)},
		{"alg", "socket", args{unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, e(unix.EAFNOSUPPORT)},
		{"xdp", "socket", args{unix.AF_XDP, unix.SOCK_RAW, 0}, e(unix.EAFNOSUPPORT)},
		{"smc", "socket", args{unix.AF_SMC, unix.SOCK_STREAM, 0}, e(unix.EAFNOSUPPORT)},
		{"kcm", "socket", args{unix.AF_KCM, unix.SOCK_DGRAM, 0}, e(unix.EAFNOSUPPORT)},
		{"tipc", "socket", args{unix.AF_TIPC, unix.SOCK_STREAM, 0}, e(unix.EAFNOSUPPORT)},
		{"rds", "socket", args{unix.AF_RDS, unix.SOCK_SEQPACKET, 0}, e(unix.EAFNOSUPPORT)},
		{"can", "socket", args{unix.AF_CAN, unix.SOCK_RAW, 1}, e(unix.EAFNOSUPPORT)},
		{"bluetooth", "socket", args{unix.AF_BLUETOOTH, unix.SOCK_RAW, 1}, e(unix.EAFNOSUPPORT)},
		{"unspecified family", "socket", args{unix.AF_UNSPEC, unix.SOCK_STREAM, 0}, e(unix.EAFNOSUPPORT)},

		{"pair", "socketpair", args{unix.AF_UNIX, unix.SOCK_STREAM | nonblock, 0}, allow},
		{"packet pair", "socketpair", args{unix.AF_UNIX, unix.SOCK_SEQPACKET, 0}, allow},
		{"datagram pair", "socketpair", args{unix.AF_UNIX, unix.SOCK_DGRAM, 0}, e(unix.EOPNOTSUPP)},
		{"raw pair", "socketpair", args{unix.AF_UNIX, unix.SOCK_RAW, 0}, e(unix.EOPNOTSUPP)},
		{"tipc pair", "socketpair", args{unix.AF_TIPC, unix.SOCK_STREAM, 0}, e(unix.EOPNOTSUPP)},

		{"connect", "connect", args{3, 0x7fff0000, 16}, notify},
		{"bind", "bind", args{3}, notify},
		{"listen", "listen", args{3}, notify},
		{"send", "sendto", args{3, 1, 1, unix.MSG_NOSIGNAL, 0, 0}, allow},
		{"sendto", "sendto", args{3, 1, 1, 0, 0x7fff0000, 16}, notify},
		{"sendto, pointer with an empty low half", "sendto", args{3, 1, 1, 0, 0x7f << 32, 16}, notify},
		{"sendto, no length", "sendto", args{3, 1, 1, 0, 0x7fff0000, 0}, notify},
		{"fast open by sendto", "sendto", args{3, 1, 1, unix.MSG_FASTOPEN, 0x7fff0000, 16}, e(unix.EOPNOTSUPP)},
		{"fast open by sendmsg", "sendmsg", args{3, 1, unix.MSG_FASTOPEN | unix.MSG_NOSIGNAL}, e(unix.EOPNOTSUPP)},
		{"fast open by sendmmsg", "sendmmsg", args{3, 1, 1, unix.MSG_FASTOPEN}, e(unix.EOPNOTSUPP)},
		{"sendmsg", "sendmsg", args{3, 1, unix.MSG_NOSIGNAL}, allow},
		{"sendmmsg", "sendmmsg", args{3, 1, 1, unix.MSG_NOSIGNAL}, allow},
		{"recv", "recvfrom", args{3, 1, 1, 0, 0, 0}, allow},
		{"recvfrom with a source", "recvfrom", args{3, 1, 1, 0, 1, 1}, notify},
		{"recvmsg", "recvmsg", args{959, 1, 0}, allow},
		{"recvmsg on a stand-in", "recvmsg", args{960, 1, 0}, notify},
		{"recvmsg on the last stand-in", "recvmsg", args{1023, 1, 0}, notify},
		{"recvmsg beyond the stand-ins", "recvmsg", args{1024, 1, 0}, allow},
		{"getsockname", "getsockname", args{3, 1, 1}, allow},
		{"getsockname of a stand-in", "getsockname", args{960, 1, 1}, notify},
		{"getpeername", "getpeername", args{3, 1, 1}, notify},
		{"ICMP errors of a stand-in", "setsockopt", args{960, unix.SOL_IP, unix.IP_RECVERR}, seccomp.Pretend},
		{"ICMP errors of a stand-in, IPv6", "setsockopt", args{960, unix.SOL_IPV6, unix.IPV6_RECVERR}, seccomp.Pretend},
		{"ICMP errors of a stream", "setsockopt", args{3, unix.SOL_IP, unix.IP_RECVERR}, allow},
		{"another option of a stand-in", "setsockopt", args{960, unix.SOL_IP, unix.IP_OPTIONS}, e(unix.EPERM)},
		{"recvmmsg", "recvmmsg", args{960, 1, 1, 0, 0}, allow},

		{"no delay", "setsockopt", args{3, unix.SOL_TCP, unix.TCP_NODELAY}, allow},
		{"keep alive", "setsockopt", args{3, unix.SOL_SOCKET, unix.SO_KEEPALIVE}, allow},
		{"v6 only", "setsockopt", args{3, unix.SOL_IPV6, unix.IPV6_V6ONLY}, allow},
		{"bind to device", "setsockopt", args{3, unix.SOL_SOCKET, unix.SO_BINDTODEVICE}, e(unix.EPERM)},
		{"ip options", "setsockopt", args{3, unix.SOL_IP, unix.IP_OPTIONS}, e(unix.EPERM)},
		{"segment routing", "setsockopt", args{3, unix.SOL_IPV6, unix.IPV6_RTHDR}, e(unix.EPERM)},
		{"segment routing, old way", "setsockopt", args{3, unix.SOL_IPV6, 5}, e(unix.EPERM)},
		{"join", "setsockopt", args{3, unix.SOL_IP, 42}, e(unix.EPERM)},
		{"join6", "setsockopt", args{3, unix.SOL_IPV6, 42}, e(unix.EPERM)},
		{"fast open connect", "setsockopt", args{3, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT}, e(unix.EOPNOTSUPP)},
		{"fast open server", "setsockopt", args{3, unix.SOL_TCP, unix.TCP_FASTOPEN}, allow},
		{"upper layer", "setsockopt", args{3, unix.SOL_TCP, unix.TCP_ULP}, e(unix.ENOENT)},
		{"same number, other level", "setsockopt", args{3, unix.SOL_SOCKET, unix.TCP_ULP}, allow},

		{"thread", "clone", args{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND | unix.CLONE_FS | unix.CLONE_FILES}, allow},
		{"fork", "clone", args{uint64(unix.SIGCHLD)}, allow},
		{"time namespace bit is a signal", "clone", args{unix.CLONE_NEWTIME}, allow},
		{"user namespace", "clone", args{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, e(unix.EPERM)},
		{"network namespace", "clone", args{unix.CLONE_NEWNET | uint64(unix.SIGCHLD)}, e(unix.EPERM)},
		{"clone3", "clone3", args{1, 88}, e(unix.ENOSYS)},
		{"unshare files", "unshare", args{unix.CLONE_FILES | unix.CLONE_FS}, allow},
		{"unshare user", "unshare", args{unix.CLONE_NEWUSER | unix.CLONE_FILES}, e(unix.EPERM)},
		{"unshare time", "unshare", args{unix.CLONE_NEWTIME}, e(unix.EPERM)},
		{"unshare what comes", "unshare", args{0x100000}, e(unix.EPERM)},
		{"setns", "setns", args{3}, e(unix.EPERM)},
		{"own limits", "prlimit64", args{0, unix.RLIMIT_NOFILE, 0x7fff0000}, allow},
		{"core limit", "prlimit64", args{0, unix.RLIMIT_CORE, 0x7fff0000}, seccomp.Pretend},
		{"core limit, asked", "prlimit64", args{0, unix.RLIMIT_CORE, 0, 0x7fff0000}, allow},
		{"core limit of another", "prlimit64", args{1, unix.RLIMIT_CORE, 0x7fff0000}, e(unix.EPERM)},
		{"core limit, the old way", "setrlimit", args{unix.RLIMIT_CORE, 0x7fff0000}, seccomp.Pretend},
		{"own limit, the old way", "setrlimit", args{unix.RLIMIT_NOFILE, 0x7fff0000}, allow},
		{"limits of another, asked", "prlimit64", args{1, unix.RLIMIT_NOFILE, 0, 0x7fff0000}, allow},
		{"limits of another", "prlimit64", args{1, unix.RLIMIT_CPU, 0x7f << 32}, e(unix.EPERM)},
		{"filter", "seccomp", args{unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC}, allow},
		{"strict mode", "seccomp", args{unix.SECCOMP_SET_MODE_STRICT}, allow},
		{"listener", "seccomp", args{unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER}, e(unix.EBUSY)},
		{"which personality", "personality", args{0xffffffff}, allow},
		{"default personality", "personality", args{0}, allow},
		{"no randomisation", "personality", args{0x40000}, e(unix.EPERM)},
		{"process name", "prctl", args{unix.PR_SET_NAME}, allow},
		{"process memory map", "prctl", args{unix.PR_SET_MM, 14}, e(unix.EPERM)},
		{"execveat", "execveat", args{3, 1, 1, 1, 0}, allow},
		{"fexecve", "execveat", args{3, 1, 1, 1, unix.AT_EMPTY_PATH}, e(unix.ENOSYS)},
		{"window size", "ioctl", args{0, unix.TIOCGWINSZ}, allow},
		{"type into a terminal", "ioctl", args{0, unix.TIOCSTI}, e(unix.EPERM)},
		{"paste into a terminal", "ioctl", args{0, 0x541c}, e(unix.EPERM)},
		{"share extents", "ioctl", args{3, unix.FICLONE}, allow},
		{"share a range", "ioctl", args{3, unix.FICLONERANGE}, allow},
		{"find equal extents", "ioctl", args{3, unix.FIDEDUPERANGE}, allow},
		{"make a subvolume", "ioctl", args{3, 0x5000940e}, e(unix.ENOTTY)},
		{"make a subvolume, other form", "ioctl", args{3, 0x50009418}, e(unix.ENOTTY)},
		{"copy a subvolume", "ioctl", args{3, 0x50009401}, e(unix.ENOTTY)},
		{"copy a subvolume, other form", "ioctl", args{3, 0x50009417}, e(unix.ENOTTY)},
		{"remove a subvolume", "ioctl", args{3, 0x5000940f}, e(unix.ENOTTY)},
		{"reflink by path", "ioctl", args{3, 0x40186f04}, e(unix.ENOTTY)},
		{"seal a file", "ioctl", args{3, unix.FS_IOC_ENABLE_VERITY}, e(unix.ENOTTY)},
		{"flags of a file", "ioctl", args{3, unix.FS_IOC_GETFLAGS}, allow},
		{"shared memory", "shmat", args{1}, e(unix.ENOSYS)},
		{"message queue", "mq_open", args{1}, e(unix.ENOSYS)},
		{"statmount", "statmount", args{}, e(unix.ENOSYS)},
		{"ptrace", "ptrace", args{}, e(unix.EPERM)},
		{"io_uring", "io_uring_setup", args{}, e(unix.ENOSYS)},
		{"landlock", "landlock_restrict_self", args{}, allow},
		{"open", "openat", args{}, allow},
		{"kill", "kill", args{}, allow},
	}
	words := map[string][]int{"unshare": {0}, "sendto": {4}, "recvfrom": {4}, "prlimit64": {2, 3}}
	for _, arch := range arches {
		filter := program(t, arch, full)
		for _, tt := range tests {
			t.Run(arch.String()+"/"+tt.name, func(t *testing.T) {
				nr, known := arch.Number(tt.call)
				if !known || nr < 0 {
					t.Fatalf("no call %s", tt.call)
				}
				if got := simulate(t, filter, arch, nr, tt.args); got != tt.want {
					t.Errorf("%s%#x: %v, want %v", tt.call, tt.args, got, tt.want)
				}
				dirty := tt.args
				for i := range dirty {
					dirty[i] |= junk
				}
				for _, w := range words[tt.call] {
					dirty[w] = tt.args[w]
				}
				if got := simulate(t, filter, arch, nr, dirty); got != tt.want {
					t.Errorf("%s%#x, upper halves filled: %v, want %v", tt.call, dirty, got, tt.want)
				}
			})
		}
	}
}
