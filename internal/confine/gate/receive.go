package gate

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// What an agent sends to a stand-in may carry descriptors. Nobody takes them, so the
// kernel drops them in the receive, and that is their last close: of a TCP socket with
// SO_LINGER it takes as long as the agent has set, on a thread of this process. The
// Go runtime ends a program that has 10,000 threads.

// receivers bounds the threads that receive from stand-ins at one moment.
var receivers = make(chan struct{}, 32)

// Receive takes the next message from c into b, as Read does.
func Receive(c *net.UnixConn, b []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Read(func(fd uintptr) bool {
		receivers <- struct{}{}
		defer func() { <-receivers }()
		n, _, err = unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
		return err != unix.EAGAIN
	})
	return max(n, 0), errors.Join(failed, err)
}

// pair is two ends of a packet pair, the agent's first. On Linux 6.16 and newer
// a message with descriptors cannot be sent to the second one.
func pair() ([2]int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = unix.SetsockoptInt(p[1], unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0) // older: Receive bounds what it costs
	}
	return p, err
}
