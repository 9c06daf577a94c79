package gate

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A twin whose close is the last one of a socket that lingers does not hold up who
// lets go of it: that may be the one thread that answers calls.
func TestReleaseDoesNotLinger(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, peer := lingering(t, l)
	watched := make(chan struct{})
	defer close(watched)
	go closing.watch(watched)
	released := make(chan struct{})
	start := time.Now()
	go func() {
		(&twin{fd: fd}).release()
		close(released)
	}()
	select {
	case <-released:
		if took := time.Since(start); took < closeWithin/2 {
			t.Errorf("the close took %v: it did not linger, and the test shows nothing", took)
		}
	case <-time.After(20 * closeWithin):
		t.Error("a lingering close was not interrupted")
	}
	peer.Close() // unread bytes: a reset, which ends any wait
	<-released
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("the descriptor is still there: %v", err)
	}
}
