package resolvers

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Wire looks at every frame of a network namespace.
type Wire struct {
	mu    sync.Mutex
	found map[string]int
}

// Watch counts the frames to port 53 that hold one of the labels, as DNS writes
// it, in any case. It watches the network namespace in which in runs a func.
func Watch(t *testing.T, in func(func()), labels ...string) *Wire {
	t.Helper()
	w := &Wire{found: map[string]int{}}
	var fd int
	var err error
	in(func() {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if k, err := unix.Read(fd, b); err == nil {
				w.look(b[:k], labels)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *Wire) look(frame []byte, labels []string) {
	lower := strings.ToLower(string(frame))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range labels {
		if toNameServer(frame) && strings.Contains(lower, string(rune(len(l)))+l) {
			w.found[l]++
		}
	}
}

// toNameServer recognises an IPv4 frame of UDP or TCP to port 53.
func toNameServer(f []byte) bool {
	const eth = 14
	if len(f) < eth+20 || f[eth]>>4 != 4 || !slices.Contains([]byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP}, f[eth+9]) {
		return false
	}
	at := eth + int(f[eth]&0xf)*4
	return len(f) >= at+4 && binary.BigEndian.Uint16(f[at+2:]) == 53
}

// Frames says how many frames held the label.
func (w *Wire) Frames(label string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.found[label]
}
