package gate

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A twin whose close is the last one of a socket that lingers does not hold up who
// lets go of it: that may be the one thread that answers calls. Nothing interrupts it here.
func TestReleaseDoesNotLinger(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, peer := lingering(t, l)
	released := make(chan struct{})
	go func() {
		(&twin{fd: fd}).release()
		close(released)
	}()
	select {
	case <-released:
	case <-time.After(time.Minute):
		t.Error("a lingering close held up who let go of the twin")
	}
	peer.Close() // unread bytes: a reset, which ends any wait
	<-released
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == unix.EBADF {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the descriptor is still there: %v", err)
		}
	}
}

// Where too many closes wait elsewhere already, one that waits here is interrupted.
func TestLingeringCloseIsInterrupted(t *testing.T) {
	for range cap(closers) {
		closers <- struct{}{}
	}
	defer func() {
		for range cap(closers) {
			<-closers
		}
	}()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, peer := lingering(t, l)
	watched := make(chan struct{})
	defer close(watched)
	go waiting.watch(watched)
	released := make(chan struct{})
	start := time.Now()
	go func() {
		(&twin{fd: fd}).release()
		close(released)
	}()
	select {
	case <-released:
		if took := time.Since(start); took < waitWithin/2 {
			t.Errorf("the close took %v: it did not linger, and the test shows nothing", took)
		}
	case <-time.After(time.Minute):
		t.Error("a lingering close was not interrupted")
	}
	peer.Close() // unread bytes: a reset, which ends any wait
	<-released
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("the descriptor is still there: %v", err)
	}
}

// A connect waits where the agent has turned waiting on in the middle of it, and keeps
// doing so. It ends all the same.
func TestConnectDoesNotWait(t *testing.T) {
	server, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(server)
	if err := unix.Bind(server, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(server, 0); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(server)
	if err != nil {
		t.Fatal(err)
	}
	client := func(flags int) int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	for range 5 { // fill its queue
		if err := unix.Connect(client(unix.SOCK_NONBLOCK), at); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
	watched := make(chan struct{})
	defer close(watched)
	go waiting.watch(watched)
	fd := client(0)
	var stop atomic.Bool
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for !stop.Load() {
			unix.SetNonblock(fd, false)
		}
	}()
	start, ended := time.Now(), make(chan unix.Errno, 1)
	go func() { ended <- waiting.during(fd, func() unix.Errno { return errnoOr0(unix.Connect(fd, at)) }) }()
	select {
	case errno := <-ended:
		if took := time.Since(start); took < waitWithin/2 || errno == 0 {
			t.Errorf("the connect ended with %v after %v: it did not wait, and the test shows nothing", errno, took)
		}
	case <-time.After(time.Minute):
		t.Error("a connect that waits was not ended")
		unix.Shutdown(fd, unix.SHUT_RDWR)
		<-ended
	}
	stop.Store(true)
	<-stopped
}
