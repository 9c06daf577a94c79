package identity

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Options configure a ledger. The bounds are in entries; 0 takes the default.
type Options struct {
	// Root returns the first process of the sandbox, with which every list of
	// ancestors ends, and the process of ours above it, which adopts orphans
	// (0 for none). It is called while a caller is stopped.
	Root func() (agent, guard int)

	Threads int // threads remembered, each with a descriptor; 256
	Files   int // contents of executables remembered; 1024
	Reading int // executables that wait to be read, each with a descriptor; 128
	Paths   int // paths of executables in a session; 16384. No path is forgotten
	Booked  int // connections made and not yet looked up; 4096. The oldest gives way
	Opening int // connections being made; 4096
}

func (o Options) withDefaults() Options {
	for field, def := range map[*int]int{
		&o.Threads: 256, &o.Files: 1024, &o.Reading: 128, &o.Paths: 16384, &o.Booked: 4096, &o.Opening: 4096,
	} {
		if *field <= 0 {
			*field = def
		}
	}
	return o
}

// readers is how many executables are read at the same time.
const readers = 2

// Ledger knows who made each connection. All methods may be called from several
// goroutines at once.
type Ledger struct {
	o      Options
	now    func() time.Time
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	slots chan struct{} // taken while a file is read

	mu      sync.Mutex
	threads *lru[int, *known]
	files   *lru[fileKey, *file]
	reading int               // files being read or waiting for it
	pins    map[string]string // path of a binary → its first SHA-256

	booked  *lru[netip.AddrPort, *Connection]
	opening map[uint64]struct{} // connections being made, by number
	last    uint64              // number of the last one
	moved   chan struct{}       // closed when one of them is made, if anybody waits
}

// New makes an empty ledger. The caller closes it.
func New(o Options) *Ledger {
	o = o.withDefaults()
	l := &Ledger{
		o: o, now: time.Now, slots: make(chan struct{}, readers),
		threads: newLRU[int](o.Threads, (*known).close),
		files:   newLRU[fileKey, *file](o.Files, nil),
		pins:    map[string]string{},
		booked:  newLRU[netip.AddrPort, *Connection](o.Booked, nil),
		opening: map[uint64]struct{}{},
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Open notes that the thread tid, which is stopped in connect, wants a
// connection. It looks at the thread and opens what it executes, and leaves the
// reading of a new executable to others, so it is quick.
//
// The caller makes sure after Open that the thread is still stopped in the same
// call (SECCOMP_IOCTL_NOTIF_ID_VALID), and then calls book once, from any
// goroutine, with the local address of the connection, or with the zero value
// if there is none after all. Until then, [Ledger.Lookup] of unknown addresses
// waits.
//
// On error, [ErrUnknown], [ErrFull] or [ErrClosed], the connection is refused.
func (l *Ledger) Open(tid int, wanted netip.AddrPort) (book func(local netip.AddrPort), err error) {
	seen, err := l.look(tid)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.opening) >= l.o.Opening {
		return nil, fmt.Errorf("%w: %d connections are being made", ErrFull, len(l.opening))
	}
	l.last++
	number := l.last
	l.opening[number] = struct{}{}
	return func(local netip.AddrPort) { l.book(number, seen, wanted, plain(local)) }, nil
}

// Caller is who the thread tid is, for a connection that is not booked. As with
// [Ledger.Open], the caller makes sure afterwards that the thread is still
// stopped in the same call.
func (l *Ledger) Caller(tid int, wanted netip.AddrPort) (*Connection, error) {
	seen, err := l.look(tid)
	if err != nil {
		return nil, err
	}
	return &Connection{Process: seen.outer, Wanted: wanted, ledger: l, seen: seen}, nil
}

func (l *Ledger) book(number uint64, seen *snapshot, wanted, local netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.opening[number]; !ok {
		return // booked before
	}
	delete(l.opening, number)
	if local.IsValid() {
		// An older connection of the same address was never looked up and is
		// gone, else the kernel would not have given its address away.
		l.booked.put(local, &Connection{Process: seen.outer, Wanted: wanted, Local: local, ledger: l, seen: seen})
	}
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}

// Lookup returns the connection whose other end is local, once. If it is not
// booked, Lookup waits as long as one is being made that was opened before this
// call: the gate learns the address of a connection a little after the listener
// has it. The errors are [ErrNotBooked], [ErrClosed] and those of ctx.
func (l *Ledger) Lookup(ctx context.Context, local netip.AddrPort) (*Connection, error) {
	local = plain(local)
	l.mu.Lock()
	upTo := l.last
	for {
		c, ok := l.booked.take(local)
		if !ok && l.ctx.Err() == nil && l.anyOpening(upTo) {
			wait := l.waitMoved()
			l.mu.Unlock()
			select {
			case <-wait:
			case <-l.ctx.Done():
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			l.mu.Lock()
			continue
		}
		l.mu.Unlock()
		switch {
		case ok:
			return c, nil
		case l.ctx.Err() != nil:
			return nil, ErrClosed
		}
		return nil, ErrNotBooked
	}
}

// anyOpening reports whether one of the first upTo connections is being made.
func (l *Ledger) anyOpening(upTo uint64) bool {
	for number := range l.opening {
		if number <= upTo {
			return true
		}
	}
	return false
}

// waitMoved returns the channel that the next book closes.
func (l *Ledger) waitMoved() <-chan struct{} {
	if l.moved == nil {
		l.moved = make(chan struct{})
	}
	return l.moved
}

// Pending is how many connections are being made, and how many are booked and not
// looked up yet.
func (l *Ledger) Pending() (opening, booked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.opening), l.booked.len()
}

// Close forgets everything, ends the reading of executables and makes waiting
// calls return. It does not wait for a read from a file system that hangs.
func (l *Ledger) Close() error {
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.threads.clear()
	l.files.clear()
	l.booked.clear()
	return nil
}

// plain is the address without the IPv6 dress of an IPv4 one.
func plain(a netip.AddrPort) netip.AddrPort {
	if !a.IsValid() {
		return a
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
