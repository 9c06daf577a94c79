package dns

import (
	"container/list"
	"errors"
	"hash/fnv"
	"net/netip"
	"sync"
	"time"
)

// The synthetic addresses are 198.19.x.y: the upper half of the range that
// RFC 2544 keeps for benchmarks. It is routed nowhere, is nobody's LAN as the
// RFC 1918 ranges are, is not judged "local" by browsers and runtimes, and its
// lower half is what other tools of this kind take by default. The IPv6 ones
// are unique local (RFC 4193) with the same last 32 bits.
//
// One /24 gives 254 addresses: .0 and .255 are left out because old stacks take
// them for broadcast.
const (
	perNet = 254
	slots  = 256 * perNet
)

var (
	v4Net = netip.MustParsePrefix("198.19.0.0/16")
	v6Net = netip.MustParsePrefix("fd73:616c:6c79::/96")
)

// Prefixes are the ranges of the synthetic addresses, for those who must know
// that an address of them is never real.
func Prefixes() [2]netip.Prefix { return [2]netip.Prefix{v4Net, v6Net} }

// errFull says that every name of the table was given out a moment ago.
var errFull = errors.New("dns: table of names is full")

// entry is one name with its place among the addresses.
type entry struct {
	name   string
	slot   int
	used   time.Time     // when an answer last named it
	recent *list.Element // in table.order
}

// table maps names to slots and back, at most max names. The name that was
// longest unused makes place for a new one, but not before every cached answer
// with its address has run out.
type table struct {
	mu     sync.Mutex
	names  map[string]*entry
	places map[int]*entry
	order  *list.List // of *entry, most recently used first
	max    int
	hold   time.Duration
	now    func() time.Time
}

func newTable(max int, hold time.Duration, now func() time.Time) *table {
	return &table{names: map[string]*entry{}, places: map[int]*entry{}, order: list.New(), max: max, hold: hold, now: now}
}

// slotOf gives the slot of a canonical name, and makes one if need be.
func (t *table) slotOf(name string) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.names[name]
	if e == nil {
		if len(t.names) >= t.max {
			if err := t.evict(); err != nil {
				return 0, err
			}
		}
		e = &entry{name: name, slot: t.free(name)}
		e.recent = t.order.PushFront(e)
		t.names[name], t.places[e.slot] = e, e
	}
	t.touch(e)
	return e.slot, nil
}

// nameOf gives the name at a slot.
func (t *table) nameOf(slot int) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.places[slot]
	if e == nil {
		return "", false
	}
	t.touch(e)
	return e.name, true
}

func (t *table) touch(e *entry) {
	e.used = t.now()
	t.order.MoveToFront(e.recent)
}

func (t *table) evict() error {
	last := t.order.Back()
	if last == nil {
		return errFull
	}
	e := last.Value.(*entry)
	if t.now().Sub(e.used) < t.hold {
		return errFull
	}
	t.order.Remove(last)
	delete(t.names, e.name)
	delete(t.places, e.slot)
	return nil
}

// free finds a slot. It starts where the name's hash points, so that a name
// tends to keep its address from one run to the next.
func (t *table) free(name string) int {
	h := fnv.New64a()
	h.Write([]byte(name))
	s := int(h.Sum64() % slots)
	for t.places[s] != nil {
		s = (s + 1) % slots
	}
	return s
}

func v4Of(slot int) [4]byte {
	base := v4Net.Addr().As4()
	return [4]byte{base[0], base[1], byte(slot / perNet), byte(slot%perNet + 1)}
}

func v6Of(slot int) [16]byte {
	b, v4 := v6Net.Addr().As16(), v4Of(slot)
	copy(b[12:], v4[:])
	return b
}

// slotAt is the slot of an address, either family.
func slotAt(a netip.Addr) (int, bool) {
	a = a.Unmap()
	if v6Net.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if !v4Net.Contains(a) {
		return 0, false
	}
	v4 := a.As4()
	if v4[3] == 0 || v4[3] == 255 {
		return 0, false
	}
	return int(v4[2])*perNet + int(v4[3]) - 1, true
}
