package gate

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lingering is a socket whose last close takes an hour: its peer reads nothing.
func lingering(t *testing.T, l net.Listener) (fd int, peer net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	fd, err = unix.Dup(int(f.Fd()))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(fd, true)
	junk := make([]byte, 1<<20)
	for err == nil {
		_, err = unix.Write(fd, junk)
	}
	unix.SetNonblock(fd, false)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	return fd, peer
}

// A descriptor whose close takes its time holds up a bounded number of threads.
func TestReceiveHoldsFewThreads(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const many = 3
	free := cap(receivers) - 1
	for range free { // all but one are at work elsewhere
		receivers <- struct{}{}
	}
	got := make(chan struct{}, many)
	var peers []net.Conn
	for range many {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd, peer := lingering(t, l)
		peers = append(peers, peer)
		if err := unix.Sendmsg(ends[0], []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
			t.Fatal(err)
		}
		quickly(t, fd) // the message holds the last reference now
		unix.Close(ends[0])
		c, err := unixConn(ends[1])
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer c.Close()
			for {
				if n, err := Receive(c, make([]byte, 8)); err != nil || n == 0 {
					got <- struct{}{}
					return
				}
			}
		}()
	}
	time.Sleep(300 * time.Millisecond)
	if len(got) != 0 {
		t.Error("a close did not take its time: the test shows nothing")
	}
	if stuck := inClose(t); stuck > 1 {
		t.Errorf("%d threads close, want 1", stuck)
	}
	for _, p := range peers { // unread bytes: a reset, and the close is over
		p.Close()
	}
	for range many {
		<-got
	}
	for range free {
		<-receivers
	}
}

func quickly(t *testing.T, fd int) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		unix.Close(fd)
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(time.Minute): // it lingers for an hour
		t.Fatal("the close lingers")
	}
}

// inClose counts threads of this process that wait in a lingering close.
func inClose(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range all {
		if b, err := os.ReadFile("/proc/self/task/" + e.Name() + "/wchan"); err == nil && string(b) == "wait_woken" {
			n++
		}
	}
	return n
}

// Where the kernel can, it refuses descriptors at the sender.
func TestPairTakesNoDescriptors(t *testing.T) {
	ends, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	if _, err := unix.GetsockoptInt(ends[1], unix.SOL_SOCKET, unix.SO_PASSRIGHTS); err == unix.ENOPROTOOPT {
		t.Skip("SO_PASSRIGHTS needs Linux 6.16")
	}
	if err := unix.Sendmsg(ends[0], []byte("x"), unix.UnixRights(ends[0]), nil, 0); err != unix.EPERM {
		t.Errorf("sending a descriptor: %v, want EPERM", err)
	}
	if err := unix.Sendmsg(ends[0], []byte("x"), nil, nil, 0); err != nil {
		t.Errorf("sending bytes: %v", err)
	}
}
