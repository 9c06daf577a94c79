// Package pty gives the agent a terminal of its own.
//
// The agent's terminal is a new pseudo-terminal in the agent's session; the
// user's terminal stays outside. What the agent writes is copied out, what the
// user types is copied in, and nothing else crosses: TIOCSTI on the agent's
// terminal reaches the agent only.
//
// Deliberately not here: terminal emulation, and who runs on the other end.
//
// What must hold: the user's terminal is put back as it was on every way out.
package pty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// IsTerminal says whether f is a terminal.
func IsTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// Relay joins a user's terminal and a new pseudo-terminal.
type Relay struct {
	Slave *os.File // the agent's end; owned, closed by Started

	in, out *os.File // the user's terminal; borrowed
	master  *os.File
	saved   *term.State
	resize  chan os.Signal
	copied  sync.WaitGroup // what the agent writes
	helpers sync.WaitGroup // everything else
	done    chan struct{}
	wake    [2]int // pipe: its write end is closed to end copyIn
	drain   time.Duration
}

// Open makes a pseudo-terminal of the same size as in, which is put into raw
// mode. The caller calls Started once the agent has its end, and Close always.
func Open(in, out *os.File) (*Relay, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("pty: %w", err)
	}
	if master, err = polled(master); err != nil {
		return nil, errors.Join(err, slave.Close())
	}
	r := &Relay{Slave: slave, in: in, out: out, master: master, resize: make(chan os.Signal, 1), done: make(chan struct{}), drain: drain}
	if err := unix.Pipe2(r.wake[:], unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("pty: %w", err), master.Close(), slave.Close())
	}
	if err := r.copySize(); err != nil {
		r.closeEnds()
		return nil, fmt.Errorf("pty: window size: %w", err)
	}
	if r.saved, err = makeRaw(int(in.Fd())); err != nil {
		r.closeEnds()
		return nil, fmt.Errorf("pty: raw mode: %w", err)
	}
	return r, nil
}

// polled returns f as a file of the runtime's poller, so that its last read can
// be given a deadline, and closes f. [os.File.Fd] of either undoes that.
func polled(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		if err = unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("pty: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// makeRaw puts a terminal into raw mode, in which a read never waits: whoever
// reads has asked before whether there is something, and another program may
// have taken it since.
func makeRaw(fd int) (*term.State, error) {
	saved, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 0, 0
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err != nil {
		return nil, errors.Join(err, term.Restore(fd, saved))
	}
	return saved, nil
}

// Started begins to copy, and lets go of the agent's end, so that the last
// process of the agent closes it.
func (r *Relay) Started() {
	r.Slave.Close()
	r.Slave = nil
	signal.Notify(r.resize, syscall.SIGWINCH)
	r.copied.Go(func() { io.Copy(r.out, r.master) })
	r.helpers.Go(r.followSize)
	r.helpers.Go(r.copyIn)
}

// copySize gives the agent's terminal the size of the user's. It must not ask
// the master for its number with Fd, which takes the file from the poller.
func (r *Relay) copySize() error {
	size, err := unix.IoctlGetWinsize(int(r.in.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return err
	}
	raw, err := r.master.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	return errors.Join(cerr, err)
}

func (r *Relay) followSize() {
	for {
		select {
		case <-r.resize:
			r.copySize()
		case <-r.done:
			return
		}
	}
}

// copyIn copies what the user types, until Close or until the terminal is gone.
func (r *Relay) copyIn() {
	in := int(r.in.Fd())
	poll := []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}, {Fd: int32(r.wake[0]), Events: unix.POLLIN}}
	b := make([]byte, 4096)
	for {
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil || poll[1].Revents != 0 {
			return
		}
		n, err := unix.Read(in, b)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err != nil || n == 0 && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0:
			return
		case n > 0:
			if _, err := r.master.Write(b[:n]); err != nil {
				return
			}
		}
	}
}

// drain is how long Close waits for the last output of an agent that has ended.
// The master reports EIO as soon as the last holder of the other end is gone, so
// this is for a holder that stays; a machine that is overloaded takes its time, too.
const drain = 10 * time.Second

// Close waits until everything that the agent has written is copied, and puts
// the user's terminal back. It may be called twice.
func (r *Relay) Close() error {
	if r.saved == nil {
		return nil
	}
	signal.Stop(r.resize)
	close(r.done)
	if r.Slave != nil {
		r.Slave.Close()
		r.Slave = nil
	}
	unix.Close(r.wake[1])
	r.master.SetReadDeadline(time.Now().Add(r.drain))
	r.copied.Wait()
	err := term.Restore(int(r.in.Fd()), r.saved)
	r.saved = nil
	err = errors.Join(err, r.master.Close()) // also ends a write to an agent that does not read
	r.helpers.Wait()
	unix.Close(r.wake[0])
	return err
}

func (r *Relay) closeEnds() {
	r.master.Close()
	r.Slave.Close()
	unix.Close(r.wake[0])
	unix.Close(r.wake[1])
}
