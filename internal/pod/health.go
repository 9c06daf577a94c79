package pod

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// health answers a kubelet's probes. The zero value is a supervisor that has
// not started its agent yet: alive, and not ready.
type health struct {
	mu   sync.Mutex
	held func() error
}

// started enters the question of whether the agent is still held.
func (h *health) started(held func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = held
}

var errNotStarted = errors.New("the agent has not started yet")

// live is nil while this process does what it is there for: a supervisor whose
// gate hangs or is gone is not alive, whatever else it answers.
func (h *health) live() error {
	if err := h.ready(); !errors.Is(err, errNotStarted) {
		return err
	}
	return nil
}

// ready is nil while the agent runs and is held.
func (h *health) ready() error {
	h.mu.Lock()
	held := h.held
	h.mu.Unlock()
	if held == nil {
		return errNotStarted
	}
	return held()
}

// ServeHTTP serves /livez and /readyz: 200, or 503 with the reason.
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	check, known := map[string]func() error{"/livez": h.live, "/readyz": h.ready}[r.URL.Path]
	switch {
	case !known:
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
	default:
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	}
}

// serveHealth answers on address until close is called; an empty address means
// that nobody asks.
func serveHealth(address string, h *health) (close func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, refuse("give health another port, or end what listens there", "health: %w", err)
	}
	s := &http.Server{
		Handler: h, ReadTimeout: 2 * time.Second, WriteTimeout: 4 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer func() { done <- struct{}{} }()
		s.Serve(l)
	}()
	return func() { s.Close(); <-done }, nil
}
