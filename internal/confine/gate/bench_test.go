package gate_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain runs the client of the benchmarks when the test binary is started
// with its arguments: a loop of socket, connect and close.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "connect-loop" {
		connectLoop(os.Args[2], os.Args[3])
		return
	}
	os.Exit(m.Run())
}

// connectLoop prints the nanoseconds that one socket + connect takes, without
// the close.
func connectLoop(port, count string) {
	p, _ := strconv.Atoi(port)
	n, _ := strconv.Atoi(count)
	var spent time.Duration
	for range n {
		t := time.Now()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: p, Addr: [4]byte{127, 0, 0, 1}})
		}
		spent += time.Since(t)
		if err != nil {
			fmt.Println("error", err)
			return
		}
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		unix.Close(fd)
	}
	fmt.Println(spent.Nanoseconds() / int64(n))
}

// BenchmarkConnect reports socket + connect to a loopback server, bare and
// through the gate, in turn: µs of each and what the gate adds.
func BenchmarkConnect(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	x := newBox(b)
	port, count := fmt.Sprint(x.proxy.Port()), "2000"
	var bare, gated []float64
	for b.Loop() {
		out, err := exec.Command(self, "connect-loop", port, count).Output()
		if err != nil {
			b.Fatal(err)
		}
		bare = append(bare, micros(b, string(out)))
		in, _ := x.run(b, self, "connect-loop", port, count)
		gated = append(gated, micros(b, in))
	}
	b.ReportMetric(median(bare), "bare-µs")
	b.ReportMetric(median(gated), "gate-µs")
	b.ReportMetric(median(gated)-median(bare), "added-µs")
}

func micros(b *testing.B, s string) float64 {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		b.Fatalf("client said %q", s)
	}
	return float64(n) / 1000
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
