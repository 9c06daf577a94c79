package supervisor

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
)

// A call of the agent may wait for the gate for so many looks before the sandbox no
// longer counts as held: half a second, which is thousands of times what a call takes.
// A process that stood still has not looked meanwhile.
const (
	looks     = 20
	lookAfter = 25 * time.Millisecond
)

var errNotAnswering = errors.New("supervisor: calls of the agent wait for the gate and are not answered")

// health knows whether the parts that hold a running agent still do their work.
type health struct {
	mu       sync.Mutex
	gate     *gate.Gate
	listener int
	gone     string // the first part that has ended
}

// watch enters the gate and its notification descriptor, which is borrowed
// until the gate has ended.
func (h *health) watch(g *gate.Gate, listener int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gate, h.listener = g, listener
}

// ended notes that a part has returned.
func (h *health) ended(part string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone == "" {
		h.gone = part
	}
}

// check looks at the kernel's queue of notified calls: one that waits while the
// gate answers none is a gate that hangs.
func (h *health) check() error {
	before, waiting, err := h.look()
	for n := 0; n < looks && err == nil && waiting; n++ {
		time.Sleep(lookAfter)
		var now uint64
		if now, waiting, err = h.look(); now != before {
			return err
		}
	}
	if err == nil && waiting {
		return errNotAnswering
	}
	return err
}

// look returns how many calls were answered and whether one is waiting.
func (h *health) look() (answered uint64, waiting bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone != "" {
		return 0, false, fmt.Errorf("supervisor: %s has ended", h.gone)
	}
	if h.gate == nil {
		return 0, false, nil
	}
	p := []unix.PollFd{{Fd: int32(h.listener), Events: unix.POLLIN}}
	if _, err := unix.Poll(p, 0); err != nil && err != unix.EINTR {
		return 0, false, fmt.Errorf("supervisor: asking for waiting calls: %w", err)
	}
	answered, _ = h.gate.Calls()
	return answered, p[0].Revents&unix.POLLIN != 0, nil
}
