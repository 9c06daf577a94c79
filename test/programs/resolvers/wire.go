package resolvers

import (
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Wire looks at every question to a name server in a network namespace.
type Wire struct {
	mu    sync.Mutex
	idle  *sync.Cond // on mu: looks grew
	looks int        // how often there was nothing left to read
	found map[string]int
}

// toNameServer lets through IPv4 frames of UDP or TCP to port 53. What does not
// pass takes no room in the socket's queue.
var toNameServer = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jf: 7},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 23},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_UDP, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_TCP, Jf: 4},
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 14}, // the IP header's length
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 16},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 53, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// Watch counts the frames to port 53 that hold one of the labels, as DNS writes
// it, in any case. It watches the network namespace in which in runs a func. A
// frame that was lost fails the test.
func Watch(t *testing.T, in func(func()), labels ...string) *Wire {
	t.Helper()
	w := &Wire{found: map[string]int{}}
	w.idle = sync.NewCond(&w.mu)
	var fd int
	var err error
	in(func() { fd, err = listen() })
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
			n, err := unix.Read(fd, b)
			w.look(b[:max(n, 0)], labels, err == unix.EAGAIN)
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		if s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || s.Drops != 0 {
			t.Errorf("frames were lost: %+v, %v", s, err)
		}
		unix.Close(fd)
	})
	return w
}

// listen makes the socket: the filter is there before the first frame.
func listen() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(toNameServer)), Filter: &toNameServer[0]})
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *Wire) look(frame []byte, labels []string, nothing bool) {
	lower := strings.ToLower(string(frame))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range labels {
		if strings.Contains(lower, string(rune(len(l)))+l) {
			w.found[l]++
		}
	}
	if nothing {
		w.looks++
		w.idle.Broadcast()
	}
}

// Frames says how many frames held the label, of all that were sent before.
func (w *Wire) Frames(label string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for end := w.looks + 2; w.looks < end; {
		w.idle.Wait()
	}
	return w.found[label]
}
