package attack

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"
)

// greeting is how every forbidden server answers: the proof that it was reached.
const greeting = "REACHED "

// socket opens a socket with raw arguments and closes it when the case ends
// with its process.
func socket(domain, typ, proto uintptr) (int, error) {
	fd, err := call(unix.SYS_SOCKET, domain, typ, proto)
	return int(fd), err
}

func (a *agent) connect(fd int, sa []byte) error {
	_, err := call(unix.SYS_CONNECT, uintptr(fd), a.heap.put(sa), uintptr(len(sa)))
	return err
}

// prove writes the mark to a connected socket and waits for the greeting.
func (a *agent) prove(fd int, name string) error {
	if _, err := call(unix.SYS_WRITE, uintptr(fd), a.heap.put([]byte(a.mark(name)+"\n")), uintptr(len(a.mark(name))+1)); err != nil {
		return &refusal{wordCaptured, "writing: " + err.Error()}
	}
	return a.greeted(fd)
}

// greeted waits for the greeting of a forbidden server.
func (a *agent) greeted(fd int) error {
	if err := wait(fd, unix.POLLIN, a.patient()); err != nil {
		return &refusal{wordSilent, ""}
	}
	b, at := a.heap.alloc(512)
	n, err := call(unix.SYS_READ, uintptr(fd), at, uintptr(len(b)))
	if err != nil {
		return &refusal{wordCaptured, "reading: " + err.Error()}
	}
	if !bytes.HasPrefix(b[:n], []byte(greeting)) {
		return &refusal{wordCaptured, ""}
	}
	return nil
}

// wait waits until fd is ready. It returns ETIMEDOUT when it is not.
func wait(fd int, events int16, limit time.Duration) error {
	end := time.Now().Add(limit)
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(p, max(0, int(time.Until(end).Milliseconds())))
		switch {
		case n > 0:
			return nil
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case time.Now().After(end):
			return unix.ETIMEDOUT
		}
	}
}

// reach connects a new TCP socket to sa and proves who answers.
func (a *agent) reach(name string, sa []byte) error {
	return a.reachBy(name, sa, unix.SOCK_STREAM, 0)
}

func (a *agent) reachBy(name string, sa []byte, typ, proto uintptr) error {
	fd, err := socket(uintptr(familyOf(sa)), typ, proto)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := a.connected(fd, sa); err != nil {
		return err
	}
	return a.prove(fd, name)
}

// connected connects fd, blocking or not.
func (a *agent) connected(fd int, sa []byte) error {
	err := a.connect(fd, sa)
	if err != unix.EINPROGRESS {
		return err
	}
	if err := wait(fd, unix.POLLOUT, answerLimit); err != nil {
		return err
	}
	e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if e != 0 {
		return unix.Errno(e)
	}
	return nil
}

// kindOf tells what a descriptor really is.
func kindOf(fd int) (domain, typ, proto int) {
	domain, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	typ, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	proto, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return domain, typ, proto
}
