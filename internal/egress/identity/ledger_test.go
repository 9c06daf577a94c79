package identity

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
)

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func address(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

func TestLookup(t *testing.T) {
	l := ledger(t, os.Getpid(), Options{})
	_, err := l.Lookup(limit(t), local)
	wantErr(t, "nothing is booked", err, ErrNotBooked)
	book, err := l.Open(os.Getpid(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	book(netip.AddrPortFrom(netip.AddrFrom16(local.Addr().As16()), local.Port()))
	if _, err := l.Lookup(limit(t), address(1)); err == nil {
		t.Error("another port is found")
	}
	if _, err := l.Lookup(limit(t), local); err != nil {
		t.Errorf("Lookup = %v", err)
	}
	_, err = l.Lookup(limit(t), local)
	wantErr(t, "taken already", err, ErrNotBooked)
	book(local)
	_, err = l.Lookup(limit(t), local)
	wantErr(t, "booked a second time", err, ErrNotBooked)
}

// open is Open without a process, for tests of the waiting.
func (l *Ledger) open() func(netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	n := l.last
	l.opening[n] = struct{}{}
	return func(a netip.AddrPort) { l.book(n, &snapshot{outer: &Process{}}, wanted, a) }
}

func TestLookup_waits(t *testing.T) {
	tests := []struct {
		name string
		do   func(l *Ledger, a, b func(netip.AddrPort))
		want error
	}{
		{"booked", func(l *Ledger, a, b func(netip.AddrPort)) { a(local) }, nil},
		{"booked_second", func(l *Ledger, a, b func(netip.AddrPort)) { a(address(1)); b(local) }, nil},
		{"dropped", func(l *Ledger, a, b func(netip.AddrPort)) { a(netip.AddrPort{}); b(netip.AddrPort{}) }, ErrNotBooked},
		{"others", func(l *Ledger, a, b func(netip.AddrPort)) { a(address(1)); b(address(2)) }, ErrNotBooked},
		{"later_ones", func(l *Ledger, a, b func(netip.AddrPort)) { l.open(); a(address(1)); b(address(2)) }, ErrNotBooked},
		{"closed", func(l *Ledger, a, b func(netip.AddrPort)) { l.Close() }, ErrClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := ledger(t, 0, Options{})
				a, b := l.open(), l.open()
				var err error
				returned := false
				go func() {
					_, err = l.Lookup(t.Context(), local)
					returned = true
				}()
				synctest.Wait()
				if returned {
					t.Fatalf("Lookup did not wait: %v", err)
				}
				tt.do(l, a, b)
				synctest.Wait()
				if !returned {
					t.Fatal("Lookup still waits")
				}
				if err != tt.want {
					t.Errorf("Lookup error = %v, want %v", err, tt.want)
				}
			})
		})
	}
}

func TestLookup_context(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ledger(t, 0, Options{})
		l.open()
		ctx, cancel := context.WithCancel(context.Background())
		go func() { synctest.Wait(); cancel() }()
		_, err := l.Lookup(ctx, local)
		wantErr(t, "ended context", err, context.Canceled)
	})
}

// TestBooked_oldest: what nobody looks up gives way, and is refused later.
func TestBooked_oldest(t *testing.T) {
	l := ledger(t, 0, Options{Booked: 3})
	for port := 1; port <= 5; port++ {
		l.open()(address(port))
	}
	for port := 1; port <= 5; port++ {
		_, err := l.Lookup(limit(t), address(port))
		if gone := port <= 2; gone != (err == ErrNotBooked) {
			t.Errorf("port %d: %v", port, err)
		}
	}
}

func TestOpening_bound(t *testing.T) {
	l := ledger(t, os.Getpid(), Options{Opening: 1})
	book, err := l.Open(os.Getpid(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Open(os.Getpid(), wanted)
	wantErr(t, "a second one", err, ErrFull)
	book(netip.AddrPort{})
	if _, err := l.Open(os.Getpid(), wanted); err != nil {
		t.Errorf("after the first one: %v", err)
	}
}

func TestClose(t *testing.T) {
	l := ledger(t, os.Getpid(), Options{})
	book, err := l.Open(os.Getpid(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	book(local)
	_, err = l.Open(os.Getpid(), wanted)
	wantErr(t, "Open after Close", err, ErrClosed)
	l.Close()
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	p := programs(t, "agent", "tool")
	r := start(t, p...)
	l := ledger(t, r.pids[0], Options{Threads: 1, Files: 1, Booked: 64})
	ctx := limit(t)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				pid := r.pids[(g+i)%2]
				book, err := l.Open(pid, wanted)
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				a := address(1000*(g+1) + i)
				go book(a)
				c, err := l.Lookup(ctx, a)
				if err != nil {
					t.Errorf("Lookup: %v", err)
					return
				}
				if who, err := c.Identify(ctx); err != nil || who.PID != pid {
					t.Errorf("Identify = %+v, %v, want %d", who, err, pid)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestLRU(t *testing.T) {
	var dropped []string
	l := newLRU[int](2, func(s string) { dropped = append(dropped, s) })
	l.put(1, "a")
	l.put(2, "b")
	l.get(1)
	l.put(3, "c") // b was not used for longest
	l.put(1, "d") // replaces a
	if v, ok := l.take(3); !ok || v != "c" {
		t.Errorf("take(3) = %q, %v", v, ok)
	}
	if _, ok := l.take(2); ok {
		t.Error("2 is still there")
	}
	l.clear()
	if got := fmt.Sprint(dropped); got != "[b a d]" {
		t.Errorf("dropped %s, want [b a d]", got)
	}
}
