package attack

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// twins are the allowed counterparts: what the sandbox must not break.
var twins = map[string]func(*agent) error{
	"proxy":      (*agent).fetchOrigin,
	"tool":       toolTwin,
	"epoll":      epollTwin,
	"pair":       pairTwin,
	"routes":     routesTwin,
	"own_unix":   ownUnixTwin,
	"own_server": ownServerTwin,
	"child":      childTwin,
	"workdir":    workdirTwin,
	"bound_key":  boundKeyTwin,
}

// toolTwin uses the destination that only the program `other` may reach.
func toolTwin(a *agent) error {
	other := filepath.Join(a.Tools, "other")
	return a.dialAs(other, other, a.ToolAt)
}

// epollTwin waits in epoll for a non-blocking connect to the proxy, registered
// before the connect as Node does.
func epollTwin(a *agent) error {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	const edge = 1 << 31 // EPOLLET
	ev := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLIN | edge, Fd: int32(fd)}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return err
	}
	if err := a.connect(fd, sockaddr(parse(a.Proxy))); err != nil && err != unix.EINPROGRESS {
		return err
	}
	for end := time.Now().Add(answerLimit); time.Now().Before(end); {
		n, err := unix.EpollWait(ep, make([]unix.EpollEvent, 1), 500)
		if err != nil && err != unix.EINTR {
			return err
		}
		if _, err := unix.Getpeername(fd); n > 0 && err == nil {
			return nil
		}
	}
	return unix.ETIMEDOUT
}

func pairTwin(*agent) error {
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		p, err := unix.Socketpair(unix.AF_UNIX, typ, 0)
		if err != nil {
			return err
		}
		if _, err := unix.Write(p[0], []byte("x")); err != nil {
			return err
		}
		if n, err := unix.Read(p[1], make([]byte, 1)); n != 1 {
			return err
		}
	}
	return nil
}

// routesTwin lists the interfaces, as getifaddrs does.
func routesTwin(a *agent) error {
	fd, err := socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	if _, err := call(unix.SYS_BIND, uintptr(fd), a.heap.put(nlAddr(0, 0)), unix.SizeofSockaddrNetlink); err != nil {
		return err
	}
	req := nlRequest(unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg))
	if err := a.sendto(fd, req, nlAddr(0, 0), 0); err != nil {
		return err
	}
	n, err := unix.Read(fd, make([]byte, 1<<16))
	if err == nil && n < unix.SizeofNlMsghdr {
		return unix.EIO
	}
	return err
}

func ownUnixTwin(a *agent) error {
	path := a.work("twin")
	os.Remove(path)
	l, err := a.unixServer(path)
	if err != nil {
		return err
	}
	defer unix.Close(l)
	fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return a.connect(fd, sockaddrUnix(path))
}

// ownServerTwin serves on loopback and reaches its own server.
func ownServerTwin(a *agent) error {
	l, on, err := a.serve(unix.AF_INET, netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		return err
	}
	defer unix.Close(l)
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := a.connected(fd, sockaddr(on)); err != nil {
		return err
	}
	c, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	if err == nil {
		unix.Close(c)
	}
	return err
}

// childTwin starts a process, signals it and reads what /proc says of it.
func childTwin(a *agent) error {
	cmd := exec.Command(a.Exe, hidden, "victim", "-", "-")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := os.ReadFile("/proc/" + itoa(cmd.Process.Pid) + "/environ"); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return err
	}
	err = cmd.Process.Signal(unix.SIGKILL)
	cmd.Wait()
	return err
}

func workdirTwin(a *agent) error {
	p := a.work("twin")
	if err := os.WriteFile(p, []byte("mine"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(p, p+"2"); err != nil {
		return err
	}
	if err := os.Link(p+"2", p+"3"); err != nil {
		return err
	}
	if err := os.Mkdir(a.work("sub"), 0o700); err != nil {
		return err
	}
	// Another directory: this takes LANDLOCK_ACCESS_FS_REFER.
	if err := os.Rename(p+"3", a.work("sub", "moved")); err != nil {
		return err
	}
	return os.RemoveAll(a.work("sub"))
}
