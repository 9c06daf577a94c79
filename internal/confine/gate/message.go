package gate

import (
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// messages is this side of a stand-in for a unix datagram socket: what the agent
// sends goes on to the socket that it was connected to, with a copy of the bytes
// and without descriptors. Nothing comes back: the other side sees a sender
// without an address, as of most clients of syslog and sd_notify.
type messages struct {
	agent *net.UnixConn // the other end of the agent's packet pair
	mu    sync.Mutex
	to    *net.UnixConn // nil before connect
}

const (
	maxMessage  = 64 << 10
	messageWait = time.Second // for a full queue; then the message is lost
)

// unixDatagram answers a request for a unix datagram socket. Like a UDP socket, a
// real one would obey the name in any message.
func (w *worker) unixDatagram(flags int) verdict {
	if len(w.g.unix.granted) == 0 {
		return refuse(unix.EACCES, "unix datagram socket", "the policy lists no socket under sockets.unix")
	}
	ends, err := pair()
	if err != nil {
		return fail(errnoOf(err))
	}
	if flags&unix.SOCK_NONBLOCK != 0 {
		unix.SetNonblock(ends[0], true)
	}
	agent, err := unixConn(ends[1])
	if err != nil {
		unix.Close(ends[0])
		return fail(errnoOf(err))
	}
	m := &messages{agent: agent}
	g, tw := w.g, &twin{kind: kindMessage, fd: ends[0], messages: m}
	go func() {
		defer g.table.forget(tw)
		m.carry()
	}()
	return w.give(tw, flags)
}

// unixConn takes ownership of fd.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "unix")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// carry sends messages on until the agent's end is gone, or the other side is.
func (m *messages) carry() {
	defer m.agent.Close()
	defer m.connect(nil)
	b := make([]byte, maxMessage)
	for {
		n, err := Receive(m.agent, b)
		if err != nil || n == 0 {
			return
		}
		m.mu.Lock()
		to := m.to
		m.mu.Unlock()
		if to != nil && !send(to, b[:n]) {
			return
		}
	}
}

// send is false if nobody will ever take another message.
func send(to *net.UnixConn, b []byte) bool {
	to.SetWriteDeadline(time.Now().Add(messageWait))
	_, err := to.Write(b)
	return err == nil || errnoOf(err) != unix.ECONNREFUSED
}

func (m *messages) connect(to *net.UnixConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.to != nil {
		m.to.Close()
	}
	m.to = to
}

// messageConnect leads a stand-in to the inode at the caller's path.
func (w *worker) messageConnect(m *messages, s sockaddr) verdict {
	to, v := w.messagesTo(s)
	if v.errno == 0 {
		m.connect(to)
	}
	return v
}

// messageSend sends one message to the inode at the caller's path.
func (w *worker) messageSend(s sockaddr) verdict {
	b, errno := w.payload(maxMessage)
	if errno != 0 {
		return fail(errno)
	}
	to, v := w.messagesTo(s)
	if v.errno != 0 {
		return v
	}
	defer to.Close()
	to.SetWriteDeadline(time.Now().Add(messageWait))
	if _, err := to.Write(b); err != nil {
		return fail(errnoOf(err))
	}
	return ok(int64(len(b)))
}

func (w *worker) messagesTo(s sockaddr) (*net.UnixConn, verdict) {
	at, v := w.reach(s)
	if v.errno != 0 {
		return nil, v
	}
	defer unix.Close(at)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fail(errnoOf(err))
	}
	if err := unix.Connect(fd, inodeAddr(at)); err != nil {
		unix.Close(fd)
		return nil, fail(errnoOf(err))
	}
	to, err := unixConn(fd)
	if err != nil {
		return nil, fail(errnoOf(err))
	}
	return to, ok(0)
}
