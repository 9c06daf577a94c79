package attack

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// unixServer is a unix server of the agent's own, which it may connect to.
func (a *agent) unixServer(path string) (int, error) {
	fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	sa := sockaddrUnix(path)
	if _, err := call(unix.SYS_BIND, uintptr(fd), a.heap.put(sa), uintptr(len(sa))); err != nil {
		return -1, err
	}
	_, err = call(unix.SYS_LISTEN, uintptr(fd), 64)
	return fd, err
}

// drain accepts and drops what comes to an own server.
func drain(fd int, stop *atomic.Bool) {
	for !stop.Load() {
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		unix.Close(c)
	}
}

// reached says whether a unix connection leads to the forbidden server, which
// greets at once when it is spoken to; the own one never does.
func (a *agent) reached(fd int, name string) error {
	if a.Inside {
		return &refusal{wordCaptured, ""} // the server knows
	}
	unix.Write(fd, []byte(a.mark(name)+"\n"))
	return a.greetedSoon(fd)
}

// unixRace turns one word of a path between two names of equal length: the
// agent's own server and a link to the forbidden one.
func unixRace(a *agent) {
	if err := os.Chdir(a.work()); err != nil {
		panic(err)
	}
	os.Symlink(a.Unix.Stream, "bad")
	l, err := a.unixServer("own")
	if err != nil {
		a.try("thread", func() error { return faultf("own server: %w", err) })
		return
	}
	var stop atomic.Bool
	go drain(l, &stop)
	b, at := a.heap.alloc(16)
	binary.NativeEndian.PutUint16(b, unix.AF_UNIX)
	copy(b[2:], "own")
	good := *word(b)
	copy(b[2:], "bad")
	bad := *word(b)
	end := flipping(b, good, bad)
	a.race("thread", func() error {
		fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return &fault{err}
		}
		defer unix.Close(fd)
		if _, err := call(unix.SYS_CONNECT, uintptr(fd), at, 6); err != nil {
			return err
		}
		return a.reached(fd, "thread")
	})
	end()
	stop.Store(true)
	unix.Shutdown(l, unix.SHUT_RD)
}

// unixBindRace turns the path of a bind between a directory of the agent's own
// and a link to one outside. Inside, what appears there is seen by the suite.
func unixBindRace(a *agent) {
	if err := os.Chdir(a.work()); err != nil {
		panic(err)
	}
	if os.Mkdir("a", 0o700) != nil || os.Symlink(a.own(), "b") != nil {
		a.try("thread", func() error { return faultf("no directory and link to turn between") })
		return
	}
	b, at := a.heap.alloc(16)
	binary.NativeEndian.PutUint16(b, unix.AF_UNIX)
	copy(b[2:], "b/s")
	bad := *word(b)
	copy(b[2:], "a/s")
	defer flipping(b, *word(b), bad)()
	a.race("thread", func() error {
		fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return &fault{err}
		}
		defer unix.Close(fd)
		os.Remove("a/s")
		if _, err := call(unix.SYS_BIND, uintptr(fd), at, 6); err != nil {
			return err
		}
		if os.Remove("b/s") != nil {
			return &refusal{wordHarmless, ""}
		}
		return nil
	})
}

// unixSymlinkRace exchanges the file behind the path instead of the path.
func unixSymlinkRace(a *agent) {
	own, link := a.work("own"), a.work("link")
	l, err := a.unixServer(own)
	if err != nil || os.Symlink(a.Unix.Stream, link) != nil {
		a.try("rename", func() error { return faultf("own server or link: %v", err) })
		return
	}
	var stop atomic.Bool
	go drain(l, &stop)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for !stop.Load() {
			unix.Renameat2(unix.AT_FDCWD, own, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
		}
	}()
	sa := sockaddrUnix(own)
	at := a.heap.put(sa)
	a.race("rename", func() error {
		fd, err := socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return &fault{err}
		}
		defer unix.Close(fd)
		if _, err := call(unix.SYS_CONNECT, uintptr(fd), at, uintptr(len(sa))); err != nil {
			return err
		}
		return a.reached(fd, "rename")
	})
	stop.Store(true)
	<-done
	unix.Shutdown(l, unix.SHUT_RD)
	os.Remove(filepath.Join(filepath.Dir(own), "link"))
}

// descriptorRace connects one number while another thread puts sockets of
// other kinds under it.
func descriptorRace(a *agent) {
	bad := parse(a.TCP4)
	sa := a.heap.put(sockaddr(bad))
	slot, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		a.try("dup", func() error { return faultf("socket: %w", err) })
		return
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for !stop.Load() {
			for _, k := range [][2]uintptr{{unix.AF_INET, unix.SOCK_STREAM}, {unix.AF_UNIX, unix.SOCK_STREAM}, {unix.AF_INET, unix.SOCK_DGRAM}, {unix.AF_INET6, unix.SOCK_STREAM}} {
				if fd, err := socket(k[0], k[1], 0); err == nil {
					unix.Dup3(fd, slot, unix.O_CLOEXEC)
					unix.Close(fd)
				}
			}
		}
	}()
	a.race("dup", func() error {
		if _, err := call(unix.SYS_CONNECT, uintptr(slot), sa, unix.SizeofSockaddrInet4); err != nil {
			return err
		}
		if a.Inside {
			return &refusal{wordCaptured, ""} // the server knows
		}
		peer, err := unix.Getpeername(slot)
		if p, is := peer.(*unix.SockaddrInet4); err != nil || !is || p.Port != int(bad.Port()) {
			return &refusal{wordCaptured, ""}
		}
		return nil
	})
	stop.Store(true)
	<-done
}
