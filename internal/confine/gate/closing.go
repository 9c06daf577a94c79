package gate

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Two calls that the gate makes on a twin can wait for as long as the agent likes,
// which shares the file with it.
//
// A twin's close may be the last one of its socket: the agent can close its own
// end while its call is being answered. With SO_LINGER, which the agent may set at
// any moment, that close waits for the peer, and a peer inside need not read.
//
// A connect is made on a file that does not wait, and another thread of the agent can
// say otherwise between the two calls. Then it waits for the server, and a server
// inside need not accept.
//
// So both are noted, and one that takes long is interrupted. A signal ends a wait
// (sk_stream_wait_close in net/core/stream.c), and the runtime does nothing about
// SIGURG. It starts a connect anew, which is told once more not to wait. An agent that
// keeps saying otherwise loses the connection: shutdown ends the wait for the
// handshake of TCP whatever the file says (inet_shutdown in net/ipv4/af_inet.c).
type waits struct {
	mu    sync.Mutex
	since map[int]wait // by thread
}

type wait struct {
	since time.Time
	fd    int // that is being connected, borrowed; -1 for a close
}

const (
	// waitWithin is how long a call may take, and how often that is looked at.
	waitWithin = 250 * time.Millisecond
	// giveUp is when a connect that cannot be interrupted is given up. It is far
	// beyond what a call that does not wait takes on a machine that is overloaded.
	giveUp = 8 * waitWithin
)

var waiting = waits{since: map[int]wait{}}

// during runs a call on the thread that it names meanwhile; fd is the socket that it
// connects, or -1.
func (w *waits) during(fd int, call func() unix.Errno) unix.Errno {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := unix.Gettid()
	w.mu.Lock()
	w.since[tid] = wait{time.Now(), fd}
	w.mu.Unlock()
	errno := call()
	w.mu.Lock()
	delete(w.since, tid)
	w.mu.Unlock()
	return errno
}

// closers bounds the closes that wait elsewhere at one moment, and the threads for them.
var closers = make(chan struct{}, 64)

// close gives a descriptor back, elsewhere if that may take its time: the agent can
// set SO_LINGER after this look, and its close is interrupted then.
func (w *waits) close(fd int) {
	closed := func() { w.during(-1, func() unix.Errno { return errnoOr0(unix.Close(fd)) }) }
	if l, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER); err != nil || l.Onoff == 0 || l.Linger == 0 {
		closed()
		return
	}
	select {
	case closers <- struct{}{}:
		go func() {
			defer func() { <-closers }()
			closed()
		}()
	default:
		closed()
	}
}

// watch interrupts calls until quit is closed.
func (w *waits) watch(quit <-chan struct{}) {
	tick := time.NewTicker(waitWithin)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
			w.interrupt()
		}
	}
}

// interrupt holds mu all the time: the call that it interrupts does not end, and
// its descriptor means no other file.
func (w *waits) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for tid, one := range w.since {
		took := time.Since(one.since)
		if took < waitWithin {
			continue
		}
		if one.fd >= 0 {
			_ = unix.SetNonblock(one.fd, true)
		}
		if one.fd >= 0 && took >= giveUp {
			_ = unix.Shutdown(one.fd, unix.SHUT_RDWR)
		}
		_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG) // a stray one does nothing
	}
}
