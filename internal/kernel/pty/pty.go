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
	copied  sync.WaitGroup
	done    chan struct{}
}

// Open makes a pseudo-terminal of the same size as in, which is put into raw
// mode. The caller calls Started once the agent has its end, and Close always.
func Open(in, out *os.File) (*Relay, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("pty: %w", err)
	}
	// Through the poller, so that the last read can be given a deadline.
	if err := syscall.SetNonblock(int(master.Fd()), true); err != nil {
		return nil, errors.Join(fmt.Errorf("pty: %w", err), master.Close(), slave.Close())
	}
	fd, err := syscall.Dup(int(master.Fd()))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pty: %w", err), master.Close(), slave.Close())
	}
	syscall.CloseOnExec(fd)
	name := master.Name()
	master.Close()
	master = os.NewFile(uintptr(fd), name)
	r := &Relay{Slave: slave, in: in, out: out, master: master, resize: make(chan os.Signal, 1), done: make(chan struct{})}
	if err := pty.InheritSize(in, master); err != nil {
		r.closeEnds()
		return nil, fmt.Errorf("pty: window size: %w", err)
	}
	if r.saved, err = term.MakeRaw(int(in.Fd())); err != nil {
		r.closeEnds()
		return nil, fmt.Errorf("pty: raw mode: %w", err)
	}
	return r, nil
}

// Started begins to copy, and lets go of the agent's end, so that the last
// process of the agent closes it.
func (r *Relay) Started() {
	r.Slave.Close()
	r.Slave = nil
	signal.Notify(r.resize, syscall.SIGWINCH)
	r.copied.Go(func() { io.Copy(r.out, r.master) })
	go r.followSize()
	go r.copyIn()
}

func (r *Relay) followSize() {
	for {
		select {
		case <-r.resize:
			pty.InheritSize(r.in, r.master)
		case <-r.done:
			return
		}
	}
}

// copyIn copies what the user types. A read from a terminal cannot be
// interrupted without changing its file, so the goroutine may stay in its last
// read until the program ends; what it reads then goes nowhere.
func (r *Relay) copyIn() {
	b := make([]byte, 4096)
	for {
		n, err := r.in.Read(b)
		if n > 0 {
			if _, werr := r.master.Write(b[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
		select {
		case <-r.done:
			return
		default:
		}
	}
}

// drain is how long Close waits for the last output of an agent that has ended.
// The master reports EIO as soon as the last holder of the other end is gone.
const drain = 2 * time.Second

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
	r.master.SetReadDeadline(time.Now().Add(drain))
	r.copied.Wait()
	err := term.Restore(int(r.in.Fd()), r.saved)
	r.saved = nil
	return errors.Join(err, r.master.Close())
}

func (r *Relay) closeEnds() {
	r.master.Close()
	r.Slave.Close()
}
