package attack

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

func nlAddr(pid, groups uint32) []byte {
	b := make([]byte, unix.SizeofSockaddrNetlink)
	binary.NativeEndian.PutUint16(b, unix.AF_NETLINK)
	binary.NativeEndian.PutUint32(b[4:], pid)
	binary.NativeEndian.PutUint32(b[8:], groups)
	return b
}

// nlRequest is a route message without attributes.
func nlRequest(typ, flags uint16, body []byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], flags)
	copy(b[unix.SizeofNlMsghdr:], body)
	return b
}

// nlAnswer reads the error of an acknowledged request.
func (a *agent) nlAnswer(fd int) error {
	if err := wait(fd, unix.POLLIN, a.patient()); err != nil {
		return &refusal{wordSilent, ""}
	}
	b, at := a.heap.alloc(4096)
	n, err := call(unix.SYS_READ, uintptr(fd), at, uintptr(len(b)))
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return faultf("netlink answered %d bytes", n)
	}
	if e := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); e != 0 {
		return unix.Errno(-e)
	}
	return nil
}

func netlinkCase(a *agent) {
	route := func(f func(fd int) error) error {
		fd, err := socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return f(fd)
	}
	a.probe("change_route", func() error {
		return route(func(fd int) error {
			rtm := make([]byte, unix.SizeofRtMsg)
			rtm[0] = unix.AF_INET
			if err := a.sendto(fd, nlRequest(unix.RTM_NEWROUTE, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE, rtm), nlAddr(0, 0), 0); err != nil {
				return err
			}
			return a.nlAnswer(fd)
		})
	})
	for _, s := range senders {
		a.probe("to_process_"+s.name, func() error {
			return route(func(fd int) error {
				return s.send(a, fd, nlRequest(unix.RTM_GETLINK, unix.NLM_F_REQUEST, make([]byte, unix.SizeofIfInfomsg)), nlAddr(uint32(a.Victim.PID), 0), 0)
			})
		})
	}
	a.probe("connect_to_process", func() error {
		return route(func(fd int) error { return a.connect(fd, nlAddr(uint32(a.Victim.PID), 0)) })
	})
	a.try("usersock", func() error { return a.usersock() })
	for name, p := range map[string]uintptr{"sock_diag": unix.NETLINK_SOCK_DIAG, "uevent": unix.NETLINK_KOBJECT_UEVENT, "protocol_high_bits": unix.NETLINK_KOBJECT_UEVENT | high} {
		a.try(name, func() error { return a.opened(unix.AF_NETLINK, unix.SOCK_RAW, p, name) })
	}
}

// usersock sends to another process by the netlink protocol that is meant for
// that; here to itself, which is as far.
func (a *agent) usersock() error {
	const port = 0x5a11
	r, err := syscall.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_USERSOCK)
	if err != nil {
		return err
	}
	defer unix.Close(r)
	if err := unix.Bind(r, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}); err != nil {
		return err
	}
	fd, err := socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_USERSOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return a.sendmsg(fd, []byte(a.mark("usersock")), nlAddr(port, 0), 0)
}
