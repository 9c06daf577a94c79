package attack

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	protoUDPLite = 136
	protoL2TP    = 115
	protoDCCP    = 33
	sockDCCP     = 6
	sockPacket   = 10
	sockRDM      = 4
)

// udp tries every way in which a datagram can be given a destination. Where the
// socket turns out to be of another kind, the servers' view still decides.
func udp(a *agent) {
	for _, v := range []struct {
		name, to string
		typ      uintptr
	}{
		{"v4", a.UDP4, unix.SOCK_DGRAM}, {"v6", a.UDP6, unix.SOCK_DGRAM}, {"type_high_bits", a.UDP4, unix.SOCK_DGRAM | high},
	} {
		to := sockaddr(parse(v.to))
		open := func(f func(fd int) error) error {
			fd, err := socket(uintptr(familyOf(to)), v.typ, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := f(fd); err != nil {
				return err
			}
			return a.greeted(fd)
		}
		for _, s := range senders {
			name := v.name + "_" + s.name
			a.try(name, func() error {
				return open(func(fd int) error { return s.send(a, fd, []byte(a.mark(name)), to, unix.MSG_NOSIGNAL) })
			})
		}
		a.try(v.name+"_connected", func() error {
			return open(func(fd int) error {
				if err := a.connect(fd, to); err != nil {
					return err
				}
				return a.sendto(fd, []byte(a.mark(v.name+"_connected")), nil, unix.MSG_NOSIGNAL)
			})
		})
	}
	a.try("connected_elsewhere", func() error { return a.udpElsewhere(sockaddr(parse(a.UDP4))) })
}

// udpElsewhere connects a datagram socket to a name server and then names
// somebody else: a connected UDP socket obeys the name in a message.
func (a *agent) udpElsewhere(to []byte) error {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := a.connect(fd, sockaddr(at("0.0.0.0:53", "127.0.0.1"))); err != nil {
		return err
	}
	for _, s := range senders {
		if err := s.send(a, fd, []byte(a.mark("connected_elsewhere")), to, unix.MSG_NOSIGNAL); err != nil {
			return err
		}
	}
	if a.Inside {
		return a.greeted(fd)
	}
	return nil // the answers come from another address than the socket is connected to
}

func udpLite(a *agent) {
	for _, v := range []struct {
		name  string
		proto uintptr
	}{{"plain", protoUDPLite}, {"protocol_high_bits", protoUDPLite | high}} {
		a.try(v.name, func() error {
			if a.Lite == "" {
				return &absent{"this kernel was built without UDP-Lite"}
			}
			to := sockaddr(parse(a.Lite))
			fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, v.proto)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := a.sendto(fd, []byte(a.mark(v.name)), to, 0); err != nil {
				return err
			}
			return a.greeted(fd)
		})
	}
}

// opened is for sockets that need no server to be one too many.
func (a *agent) opened(domain, typ, proto uintptr, what string) error {
	fd, err := socket(domain, typ, proto)
	if err != nil {
		return absentIf(err, a, what, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT)
	}
	defer unix.Close(fd)
	if d, t, p := kindOf(fd); a.Inside && d == unix.AF_UNIX {
		return &refusal{wordOther, fmt.Sprintf("a unix socket of type %d, protocol %d", t, p)}
	}
	return nil
}

func otherTransports(a *agent) {
	for _, v := range []struct {
		name       string
		typ, proto uintptr
	}{
		{"sctp_stream", unix.SOCK_STREAM, unix.IPPROTO_SCTP},
		{"sctp_packet", unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP},
		{"sctp_packet_default", unix.SOCK_SEQPACKET, 0},
		{"dccp", sockDCCP, protoDCCP},
		{"l2tp", unix.SOCK_DGRAM, protoL2TP},
	} {
		a.try(v.name, func() error { return a.opened(unix.AF_INET, v.typ, v.proto, "SCTP, DCCP or L2TP") })
		a.try(v.name+"_v6", func() error { return a.opened(unix.AF_INET6, v.typ, v.proto, "SCTP, DCCP or L2TP") })
	}
}

func rawSockets(a *agent) {
	for _, v := range []struct {
		name               string
		domain, typ, proto uintptr
		privileged         bool
	}{
		{"raw", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW, true},
		{"raw_icmp", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, true},
		{"raw_v6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, true},
		{"ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP, false},
		{"ping_v6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, false},
		{"ping_high_bits", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP | high, false},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW, 0, true},
		{"packet_dgram", unix.AF_PACKET, unix.SOCK_DGRAM, 0, true},
		{"sock_packet", unix.AF_INET, sockPacket, 0, true},
	} {
		f := func() error { return a.opened(v.domain, v.typ, v.proto, v.name) }
		if v.privileged {
			a.probe(v.name, f)
		} else {
			a.try(v.name, f)
		}
	}
}

// families opens every socket that there could be. What is left inside is what
// the sandbox means to give; each of those is looked at for what it really is.
func families(a *agent) {
	const families, protocols = 48, 4
	types := []uintptr{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, sockRDM, unix.SOCK_SEQPACKET, sockDCCP, sockPacket}
	for _, garbage := range []struct {
		name        string
		domain, typ uintptr
	}{{"plain", 0, 0}, {"domain_high_bits", high, 0}, {"type_high_bits", 0, high}} {
		a.try(garbage.name, func() error {
			var open []string
			for d := range uintptr(families) {
				for _, t := range types {
					for p := range uintptr(protocols) {
						if s := strangeSocket(d|garbage.domain, t|garbage.typ, p); s != "" {
							open = addOnce(open, s)
						}
					}
				}
			}
			if len(open) > 0 {
				return foundf("%d strange kinds open: %s", len(open), shorten(open))
			}
			return &refusal{"EAFNOSUPPORT", ""}
		})
	}
	a.try("netlink_protocols", func() error {
		var open []string
		for p := range uintptr(32) {
			if p == unix.NETLINK_ROUTE {
				continue
			}
			if fd, err := socket(unix.AF_NETLINK, unix.SOCK_RAW, p); err == nil {
				unix.Close(fd)
				open = append(open, fmt.Sprint(p))
			}
		}
		if len(open) > 0 {
			return foundf("netlink protocols open: %s", shorten(open))
		}
		return &refusal{"EPROTONOSUPPORT", ""}
	})
}

// strangeSocket names the socket that comes back, unless it is one of those
// that the sandbox has: unix and TCP streams, unix packets, route netlink. A
// datagram request that is answered with something else is judged as that.
func strangeSocket(domain, typ, proto uintptr) string {
	fd, err := socket(domain, typ, proto)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	d, t, p := kindOf(fd)
	switch {
	case d == unix.AF_UNIX && (t == unix.SOCK_STREAM || t == unix.SOCK_SEQPACKET):
		return ""
	case (d == unix.AF_INET || d == unix.AF_INET6) && t == unix.SOCK_STREAM && p == unix.IPPROTO_TCP:
		return ""
	case d == unix.AF_NETLINK && p == unix.NETLINK_ROUTE:
		return ""
	}
	return fmt.Sprintf("%d/%d/%d", d, t, p)
}

func socketpairs(a *agent) {
	for _, v := range []struct {
		name        string
		domain, typ uintptr
	}{
		{"datagram", unix.AF_UNIX, unix.SOCK_DGRAM},
		{"raw", unix.AF_UNIX, unix.SOCK_RAW}, // unix_create makes it a datagram socket
		{"datagram_flags", unix.AF_UNIX, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC},
		{"domain_high_bits", unix.AF_UNIX | high, unix.SOCK_DGRAM},
		{"type_high_bits", unix.AF_UNIX, unix.SOCK_DGRAM | high},
	} {
		a.try(v.name, func() error {
			b, at := a.heap.alloc(8)
			if _, err := call(unix.SYS_SOCKETPAIR, v.domain, v.typ, 0, at); err != nil {
				return err
			}
			fd := int(int32(binary.NativeEndian.Uint32(b)))
			defer unix.Close(fd)
			for _, s := range senders {
				if err := s.send(a, fd, []byte(a.mark(v.name)), sockaddrUnix(a.Unix.Datagram), unix.MSG_NOSIGNAL); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func vsock(a *agent) {
	for name, cid := range map[string]uint32{"hypervisor": unix.VMADDR_CID_HOST, "loopback": unix.VMADDR_CID_LOCAL} {
		for kind, typ := range map[string]uintptr{"stream": unix.SOCK_STREAM, "datagram": unix.SOCK_DGRAM, "packet": unix.SOCK_SEQPACKET} {
			if kind == "datagram" && cid == unix.VMADDR_CID_LOCAL {
				continue
			}
			a.try(name+"_"+kind, func() error {
				fd, err := socket(unix.AF_VSOCK, typ, 0)
				if err != nil {
					return absentIf(err, a, "this kind of vsock", unix.EAFNOSUPPORT, unix.ESOCKTNOSUPPORT, unix.ENODEV, unix.EPROTONOSUPPORT)
				}
				defer unix.Close(fd)
				return nil // to have it is enough: nothing names what listens there
			})
		}
	}
}
