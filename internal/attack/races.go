package attack

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// wordNever is the answer of a race that was not won once.
const wordNever = "never"

// raceBudget bounds one race in time. The count that was reached is reported.
// A control, which has to win once, is given more: on a busy machine the two
// sides of a race may not meet for a while.
const (
	raceBudget    = 14 * time.Second
	controlBudget = 90 * time.Second
)

// flip writes two values to one word, in turn, until stop is set. It runs on a
// thread of its own.
func flip(at *uint64, a, b uint64, stop *atomic.Bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for !stop.Load() {
		for range 64 {
			atomic.StoreUint64(at, a)
			atomic.StoreUint64(at, b)
		}
		// On one core the other side must get its turn, at any point between
		// the two values.
		runtime.Gosched()
	}
}

// race runs once as often as the spec says, or for as long as the budget lasts.
// Unsandboxed it stops at the first win, and goes on until there is one.
func (a *agent) race(name string, once func() error) {
	n, budget := a.Races, time.Hour
	switch {
	case !a.Inside:
		n, budget = math.MaxInt, controlBudget
	case n == 0 && a.name == mainRace:
		n, budget = DefaultRaces, raceBudget
	case n == 0:
		n, budget = DefaultRaces/10, raceBudget
	}
	a.try(name, func() error {
		end := time.Now().Add(budget)
		won, done := 0, 0
		for ; done < n && (done%64 != 0 || time.Now().Before(end)); done++ {
			err := once()
			switch bad := err.(type) {
			case nil:
				if won++; !a.Inside {
					return foundf("won after %d", done+1)
				}
			case *fault:
				return bad
			}
		}
		if won > 0 {
			return foundf("%d of %d", won, done)
		}
		return &refusal{wordNever, fmt.Sprintf("0 of %d", done)}
	})
}

// first8 is the part of a sockaddr_in that says everything: family, port and
// address are one word, so a single store changes all of it.
func first8(ap netip.AddrPort) uint64 { return *word(sockaddr(ap)) }

// racedConnect connects to whatever the memory at sa holds when it is read, and
// says whether that was the forbidden server.
func (a *agent) racedConnect(sa uintptr, forbidden netip.AddrPort) error {
	return a.racedConnectBy(unix.AF_INET, sa, unix.SizeofSockaddrInet4, forbidden)
}

func (a *agent) racedConnectBy(family, sa, size uintptr, forbidden netip.AddrPort) error {
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return &fault{err}
	}
	defer unix.Close(fd)
	// A reset instead of a FIN: a hundred thousand connections must not end in
	// as many ports in TIME_WAIT.
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if _, err := call(unix.SYS_CONNECT, uintptr(fd), sa, size); err != nil {
		return err
	}
	if a.Inside {
		return &refusal{wordCaptured, ""} // the server knows
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return err
	}
	switch p := peer.(type) {
	case *unix.SockaddrInet4:
		if p.Port == int(forbidden.Port()) {
			return nil
		}
	case *unix.SockaddrInet6:
		if p.Port == int(forbidden.Port()) {
			return nil
		}
	}
	return &refusal{wordCaptured, ""}
}

// flipping turns the first word of b between two values, on a thread of its own,
// until the func that it returns is called.
func flipping(b []byte, x, y uint64) (stop func()) {
	var end atomic.Bool
	done := make(chan struct{})
	go func() { defer close(done); flip(word(b), x, y, &end) }()
	return func() { end.Store(true); <-done }
}

func connectRace(a *agent) {
	sa, at := a.heap.alloc(unix.SizeofSockaddrInet4)
	good, bad := parse(a.Proxy), parse(a.TCP4)
	copy(sa, sockaddr(good))
	defer flipping(sa, first8(good), first8(bad))()
	a.race("thread", func() error { return a.racedConnect(at, bad) })
}

// connectRace6 turns the port of a v6 address in its mapped form: the first word
// holds that, and the servers listen on v4 alone.
func connectRace6(a *agent) {
	sa, at := a.heap.alloc(unix.SizeofSockaddrInet6)
	good, bad := sockaddr6(parse(a.Proxy)), sockaddr6(parse(a.TCP4))
	copy(sa, good)
	defer flipping(sa, *word(good), *word(bad))()
	a.race("thread", func() error {
		return a.racedConnectBy(unix.AF_INET6, at, unix.SizeofSockaddrInet6, parse(a.TCP4))
	})
}

// connectRaceShared has the address in a file that another process maps too.
func connectRaceShared(a *agent) {
	good, bad := parse(a.Proxy), parse(a.TCP4)
	path := a.work("shared")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		panic(err)
	}
	mem, err := mapShared(path)
	if err != nil {
		panic(err)
	}
	copy(mem, sockaddr(good))
	cmd := exec.Command(a.Exe, hidden, "flip", path, fmt.Sprint(first8(good)), fmt.Sprint(first8(bad)))
	if err := cmd.Start(); err != nil {
		a.try("process", func() error { return faultf("starting the other process: %w", err) })
		return
	}
	for end := time.Now().Add(answerLimit); atomic.LoadUint64(word(mem)) != first8(bad) && time.Now().Before(end); {
		runtime.Gosched() // until the other process has begun
	}
	a.race("process", func() error { return a.racedConnect(addressOf(mem), bad) })
	cmd.Process.Kill()
	cmd.Wait()
}

func mapShared(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// flipFile is the other process of connectRaceShared; it ends by being killed.
func flipFile(path string, a, b uint64) int {
	mem, err := mapShared(path)
	if err != nil {
		return 1
	}
	var never atomic.Bool
	flip(word(mem), a, b, &never)
	return 0
}

func bindRace(a *agent) {
	good, bad := netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("0.0.0.0:0")
	sa, at := a.heap.alloc(unix.SizeofSockaddrInet4)
	copy(sa, sockaddr(good))
	defer flipping(sa, first8(good), first8(bad))()
	a.race("thread", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return &fault{err}
		}
		defer unix.Close(fd)
		if _, err := call(unix.SYS_BIND, uintptr(fd), at, unix.SizeofSockaddrInet4); err != nil {
			return err
		}
		return exposed(fd)
	})
}

func sendtoRace(a *agent) {
	good, bad := netip.MustParseAddrPort("127.0.0.1:53"), parse(a.UDP4)
	sa, at := a.heap.alloc(unix.SizeofSockaddrInet4)
	copy(sa, sockaddr(good))
	body := []byte(a.mark("thread"))
	text := a.heap.put(body)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() { defer close(done); flip(word(sa), first8(good), first8(bad), &stop) }()
	a.race("thread", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, err := call(unix.SYS_SENDTO, uintptr(fd), text, uintptr(len(body)), 0, at, unix.SizeofSockaddrInet4); err != nil {
			return err
		}
		if a.Inside {
			return &refusal{wordSilent, ""} // the server knows
		}
		return a.greetedSoon(fd)
	})
}

// greetedSoon is greeted for a race: most rounds have no answer to wait for.
func (a *agent) greetedSoon(fd int) error {
	if err := wait(fd, unix.POLLIN, 5*time.Millisecond); err != nil {
		return &refusal{wordSilent, ""}
	}
	return a.greeted(fd)
}
