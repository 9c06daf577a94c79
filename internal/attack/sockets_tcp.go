package attack

import (
	"golang.org/x/sys/unix"
)

const (
	msgFastopen = 0x20000000
	protoMPTCP  = 262
	protoSMC    = 256
	protoSMC6   = 257
	familySMC   = 43
)

// halves runs a step as it is and again with garbage in the upper half of the
// register that matters, which the kernel cuts off.
func halves(name string, f func(name string, garbage uintptr)) {
	f(name, 0)
	f(name+"_high_bits", high)
}

func fastopenSend(a *agent) {
	to := sockaddr(parse(a.TCP4))
	for _, s := range senders {
		halves(s.name, func(name string, garbage uintptr) {
			a.try(name, func() error {
				fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
				if err != nil {
					return faultf("socket: %w", err)
				}
				defer unix.Close(fd)
				if err := s.send(a, fd, []byte(a.mark(name)+"\n"), to, msgFastopen|garbage); err != nil {
					return err
				}
				return a.greeted(fd)
			})
		})
	}
	a.try("sendto_v6", func() error {
		fd, err := socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		if err != nil {
			return faultf("socket: %w", err)
		}
		defer unix.Close(fd)
		if err := a.sendto(fd, []byte(a.mark("sendto_v6")+"\n"), sockaddr(parse(a.TCP6)), msgFastopen); err != nil {
			return err
		}
		return a.greeted(fd)
	})
}

func fastopenConnect(a *agent) {
	on := a.heap.put([]byte{1, 0, 0, 0})
	for _, v := range []struct {
		name       string
		level, opt uintptr
	}{
		{"option", unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT},
		{"level_high_bits", unix.IPPROTO_TCP | high, unix.TCP_FASTOPEN_CONNECT},
		{"name_high_bits", unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT | high},
	} {
		a.try(v.name, func() error {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			if _, err := call(unix.SYS_SETSOCKOPT, uintptr(fd), v.level, v.opt, on, 4); err != nil {
				return err
			}
			if err := a.connected(fd, sockaddr(parse(a.TCP4))); err != nil {
				return err
			}
			return a.prove(fd, v.name)
		})
	}
}

func mptcp(a *agent) {
	for _, v := range []struct {
		name, to   string
		typ, proto uintptr
	}{
		{"v4", a.TCP4, unix.SOCK_STREAM, protoMPTCP},
		{"v6", a.TCP6, unix.SOCK_STREAM, protoMPTCP},
		{"nonblocking", a.TCP4, unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC, protoMPTCP},
		{"listener", a.MPTCP, unix.SOCK_STREAM, protoMPTCP},
		{"protocol_high_bits", a.TCP4, unix.SOCK_STREAM, protoMPTCP | high},
		{"type_high_bits", a.TCP4, unix.SOCK_STREAM | high, protoMPTCP},
	} {
		a.try(v.name, func() error {
			return absentIf(a.reachBy(v.name, sockaddr(parse(v.to)), v.typ, v.proto), a, "MPTCP", unix.EPROTONOSUPPORT, unix.ENOPROTOOPT)
		})
	}
	a.try("serve", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, protoMPTCP)
		if err != nil {
			return absentIf(err, a, "MPTCP", unix.EPROTONOSUPPORT, unix.ENOPROTOOPT)
		}
		defer unix.Close(fd)
		return unix.Listen(fd, 1)
	})
}

// absentIf turns the errno by which a kernel says that it was built without
// something into a skip; unsandboxed only, inside it is the filter's word too.
func absentIf(err error, a *agent, what string, errnos ...unix.Errno) error {
	for _, e := range errnos {
		if !a.Inside && err == e {
			return &absent{"this kernel was built without " + what}
		}
	}
	return err
}

func smc(a *agent) {
	for _, v := range []struct {
		name          string
		domain, proto uintptr
		to            string
	}{
		{"family", familySMC, 0, a.TCP4},
		{"family_v6", familySMC, 1, a.TCP6},
		{"protocol", unix.AF_INET, protoSMC, a.TCP4},
		{"protocol_v6", unix.AF_INET6, protoSMC6, a.TCP6},
	} {
		a.try(v.name, func() error {
			fd, err := socket(v.domain, unix.SOCK_STREAM, v.proto)
			if err != nil {
				return absentIf(err, a, "SMC", unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT)
			}
			defer unix.Close(fd)
			if err := a.connected(fd, sockaddr(parse(v.to))); err != nil {
				return err
			}
			return a.prove(fd, v.name)
		})
	}
}

// namedMessages sends messages that name a forbidden destination on the sockets
// whose kernel code ignores the name. The design rests on that; what the servers
// see decides.
func namedMessages(a *agent) {
	to := sockaddr(parse(a.TCP4))
	for _, s := range senders {
		a.try("tcp_"+s.name, func() error {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			if s.send(a, fd, []byte(a.mark(s.name)), to, unix.MSG_NOSIGNAL) == nil {
				return &refusal{wordHarmless, "an unconnected stream took a message"}
			}
			return nil
		})
		for name, typ := range map[string]int{"stream": unix.SOCK_STREAM, "packet": unix.SOCK_SEQPACKET} {
			a.try("unix_"+name+"_"+s.name, func() error {
				p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return faultf("socketpair: %w", err)
				}
				defer unix.Close(p[0])
				defer unix.Close(p[1])
				s.send(a, p[0], []byte(a.mark(name)), sockaddrUnix(a.Unix.Datagram), unix.MSG_NOSIGNAL)
				return nil
			})
		}
	}
}
