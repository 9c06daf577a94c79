package attack

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reachUnix connects to a unix address and proves who answers.
func (a *agent) reachUnix(name, path string, typ uintptr) error {
	fd, err := socket(unix.AF_UNIX, typ, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := a.connect(fd, sockaddrUnix(path)); err != nil {
		return err
	}
	return a.prove(fd, name)
}

func abstractUnix(a *agent) {
	name := "\x00" + a.Unix.Abstract
	a.try("stream", func() error { return a.reachUnix("stream", name, unix.SOCK_STREAM) })
	a.try("nonblocking", func() error {
		return a.reachUnix("nonblocking", name, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	})
	for _, s := range senders {
		a.try("datagram_"+s.name, func() error {
			fd, err := socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return s.send(a, fd, []byte(a.mark("datagram_"+s.name)), sockaddrUnix("\x00"+a.Unix.AbstractD), 0)
		})
	}
	a.try("serve", func() error {
		fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sa := sockaddrUnix("\x00" + a.Unix.Abstract + "-of-the-agent")
		_, err = call(unix.SYS_BIND, uintptr(fd), a.heap.put(sa), uintptr(len(sa)))
		return err
	})
	a.try("autobind", func() error {
		fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = call(unix.SYS_BIND, uintptr(fd), a.heap.put(sockaddrUnix("")[:2]), 2)
		return err
	})
}

func unixPath(a *agent) {
	a.try("stream", func() error { return a.reachUnix("stream", a.Unix.Stream, unix.SOCK_STREAM) })
	a.try("packet", func() error { return a.reachUnix("packet", a.Unix.Packet, unix.SOCK_SEQPACKET) })
	a.try("type_high_bits", func() error { return a.reachUnix("type_high_bits", a.Unix.Stream, unix.SOCK_STREAM|high) })
	a.try("datagram_connected", func() error {
		fd, err := socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := a.connect(fd, sockaddrUnix(a.Unix.Datagram)); err != nil {
			return err
		}
		return a.sendto(fd, []byte(a.mark("datagram_connected")), nil, 0)
	})
	for name, typ := range map[string]uintptr{"datagram": unix.SOCK_DGRAM, "raw": unix.SOCK_RAW} {
		for _, s := range senders {
			a.try(name+"_"+s.name, func() error {
				fd, err := socket(unix.AF_UNIX, typ, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return s.send(a, fd, []byte(a.mark(name+"_"+s.name)), sockaddrUnix(a.Unix.Datagram), 0)
			})
		}
	}
}

func unixPathTricks(a *agent) {
	target := a.Unix.Stream
	up, err := filepath.Rel(a.work(), target)
	if err != nil {
		panic(err)
	}
	reach := func(name, path string) {
		a.try(name, func() error { return a.reachUnix(name, path, unix.SOCK_STREAM) })
	}
	a.try("symlink", func() error {
		l := a.work("link")
		if err := os.Symlink(target, l); err != nil {
			return faultf("symlink: %w", err)
		}
		return a.reachUnix("symlink", l, unix.SOCK_STREAM)
	})
	a.try("symlinked_directory", func() error {
		l := a.work("dir")
		if err := os.Symlink(filepath.Dir(target), l); err != nil {
			return faultf("symlink: %w", err)
		}
		return a.reachUnix("symlinked_directory", filepath.Join(l, filepath.Base(target)), unix.SOCK_STREAM)
	})
	a.try("hard_link", func() error {
		l := a.work("hard")
		if err := os.Link(target, l); err != nil {
			return err
		}
		return a.reachUnix("hard_link", l, unix.SOCK_STREAM)
	})
	if os.Chdir(a.work()) == nil {
		reach("dot_dot", up)
	}
	reach("proc_root", "/proc/self/root"+target)
	reach("thread_root", "/proc/thread-self/root"+target)
	reach("repeated_slashes", "//"+target[1:])
	if os.Chdir(filepath.Dir(target)) == nil {
		reach("working_directory", filepath.Base(target))
	}
	a.try("descriptor", func() error {
		fd, err := unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return a.reachUnix("descriptor", fmt.Sprintf("/proc/self/fd/%d", fd), unix.SOCK_STREAM)
	})
	a.try("directory_descriptor", func() error {
		fd, err := unix.Open(filepath.Dir(target), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return a.reachUnix("directory_descriptor", fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(target)), unix.SOCK_STREAM)
	})
}

// daemons are the sockets by which programs on a usual host do things for
// others.
var daemons = []string{
	"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/podman/podman.sock",
	"/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/notify", "/run/systemd/journal/stdout", "/run/systemd/journal/dev-log", "/dev/log",
	"/run/systemd/resolve/io.systemd.Resolve", "/run/systemd/userdb/io.systemd.DynamicUser", "/run/nscd/socket", "/var/run/nscd/socket",
	"/run/snapd.socket", "/run/lxd.socket", "/run/libvirt/libvirt-sock", "/run/cups/cups.sock", "/run/avahi-daemon/socket", "/tmp/.X11-unix/X0",
	"/run/pcscd/pcscd.comm", "/run/postgresql/.s.PGSQL.5432", "/run/mysqld/mysqld.sock", "/run/uuidd/request",
}

// unixDaemons connects to what runs here, and says nothing to it.
func unixDaemons(a *agent) {
	list := append([]string{}, daemons...)
	for _, pattern := range []string{"/run/user/*/bus", "/run/user/*/docker.sock", "/run/user/*/podman/podman.sock", "/run/user/*/keyring/*", "/run/user/*/gnupg/S.gpg-agent", "/tmp/ssh-*/agent.*"} {
		found, _ := filepath.Glob(pattern)
		list = append(list, found...)
	}
	tried := 0
	for _, p := range list {
		st, err := os.Stat(p)
		if err != nil || st.Mode()&os.ModeSocket == 0 {
			continue
		}
		for kind, typ := range map[string]uintptr{"stream": unix.SOCK_STREAM, "datagram": unix.SOCK_DGRAM} {
			fd, err := socket(unix.AF_UNIX, typ, 0)
			if err != nil {
				continue
			}
			err = a.connect(fd, sockaddrUnix(p))
			unix.Close(fd)
			if err == unix.EPROTOTYPE {
				continue // the kernel looked: but with the wrong type there is nothing to reach
			}
			tried++
			a.try(p+" "+kind, func() error { return err })
		}
	}
	if tried == 0 {
		a.try("any", func() error { return &absent{"no such daemon runs here"} })
	}
}

func unixBindOutside(a *agent) {
	bind := func(name, path string) {
		a.try(name, func() error {
			fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			sa := sockaddrUnix(path)
			_, err = call(unix.SYS_BIND, uintptr(fd), a.heap.put(sa), uintptr(len(sa)))
			return err
		})
	}
	bind("plain", a.own("plain.sock"))
	link := a.work("link")
	os.Symlink(a.own(), link)
	bind("symlink", link+"/symlink.sock")
	up, _ := filepath.Rel(a.work(), a.own("up.sock"))
	if os.Chdir(a.work()) == nil {
		bind("dot_dot", up)
	}
	bind("proc_root", "/proc/self/root"+a.own("root.sock"))
	if os.Chdir(a.own()) == nil {
		bind("working_directory", "here.sock")
	}
	a.try("mknod", func() error { return unix.Mknod(a.own("node.sock"), unix.S_IFSOCK|0o600, 0) })
}
