package gate

import (
	"fmt"
	"time"
)

// The worker that takes calls does not wait for anything that it knows of. What is
// left is memory of a caller that is a page of a file which takes for ever to read,
// one of a FUSE or network file system that hangs: the kernel waits for it where no
// signal reaches, and so it would for the caller's own read. Then another worker takes the place of
// that one, which ends as soon as it is back. Only the caller waits, for its own
// memory. When too many are away, no memory is read until one is back.

const (
	reliefEvery = 250 * time.Millisecond
	reliefLooks = 4 // at one call in so many looks: it is held up
	// endWithin is how long the end of a sandbox waits for calls that are held up.
	endWithin = 2 * time.Second
)

// employ starts the worker that takes calls from now on. What it ends with goes to
// ended, unless it was relieved.
func (g *Gate) employ(ended chan<- error) error {
	thread := g.o.Thread
	if thread == nil {
		thread = func(f func()) error { go f(); return nil }
	}
	w := &worker{g: g, buf: make([]byte, maxSockaddr)}
	err := thread(func() {
		if err := w.work(); !w.relieved.Load() {
			ended <- err
		}
	})
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	g.current.Store(w)
	return nil
}

// relieve looks after the worker until over is closed.
func (g *Gate) relieve(ended chan<- error, over <-chan struct{}) {
	tick := time.NewTicker(reliefEvery)
	defer tick.Stop()
	var seen uint64
	for looks := 0; ; {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		w := g.current.Load()
		at := w.at.Load()
		if at == 0 || at != seen {
			seen, looks = at, 0
			continue
		}
		if looks++; looks < reliefLooks || g.crowded() {
			continue
		}
		if err := g.employ(ended); err != nil {
			looks = 0 // no thread is left for another one: everybody waits for this call
			continue
		}
		g.held.Add(1)
		w.relieved.Store(true)
	}
}

// crowded says that no other worker may be held up.
func (g *Gate) crowded() bool { return int(g.held.Load()) >= g.o.Limits.Held }

// back ends the part of a worker that was relieved. It is false for one that was not.
func (w *worker) back() bool {
	w.at.Store(0)
	if !w.relieved.Load() {
		return false
	}
	w.g.held.Add(-1)
	return true
}

// end waits for the worker that takes calls. Behind Close it has nothing left to do,
// so one that is held up is not waited for.
func (g *Gate) end(ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-g.closing:
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(endWithin):
		return nil
	}
}

// await waits for the calls that were handed to goroutines, unless they are held up.
func (g *Gate) await() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.workers.Wait()
	}()
	select {
	case <-done:
	case <-time.After(endWithin):
	}
}
