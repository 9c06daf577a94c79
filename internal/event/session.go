package event

import (
	"sync/atomic"
	"time"
)

// Sink takes an event. It must be safe for concurrent use and must not block
// for long: it is called on the way of a connection.
type Sink func(Event)

// Session stamps what the events of one sandbox share, and gives each denial
// an id that is short and unique within the session. Safe for concurrent use.
type Session struct {
	id       string
	product  Product
	device   *Device
	now      func() time.Time
	seed     uint32
	sequence atomic.Uint64
	denials  atomic.Uint32
}

// Origin is what a Session knows of its surroundings.
type Origin struct {
	SessionID string           // correlates the events of one run; any unique text
	Version   string           // of this program
	Hostname  string           // may be empty
	Kernel    string           // release; may be empty
	Seed      uint32           // scatters the ids of denials, so that two sessions rarely share one
	Now       func() time.Time // time.Now outside tests
}

// NewSession starts a session; its first event has sequence number 1.
func NewSession(o Origin) *Session {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Session{
		id: clip(o.SessionID, maxToken), product: product(o.Version), now: o.Now, seed: o.Seed,
		device: &Device{
			TypeID: 0, Type: "Unknown", Hostname: clip(o.Hostname, maxHost),
			OS: &OS{Name: "Linux", TypeID: 200, Type: "Linux", KernelRelease: clip(o.Kernel, maxToken)},
		},
	}
}

// DenialID returns the next denial's id: four hexadecimal digits for the first
// 65,536, more after that. Give it to Event.Metadata.UID where an answer to
// the agent names it too; otherwise Stamp does.
func (s *Session) DenialID() string {
	n := s.denials.Add(1) - 1
	if n > 0xffff {
		return hex(n, 5)
	}
	// An odd factor and a constant permute the 16-bit numbers.
	return hex((n*0x9e35+s.seed)&0xffff, 4)
}

// Stamp completes e: time, if it has none, sequence, product, device, session
// and, for a denial without one, an id. The explain command in e.Line works
// only for events that were stamped.
func (s *Session) Stamp(e Event) Event {
	if e.Time == 0 {
		e.Time = s.now().UnixMilli()
	}
	e.Metadata.Product = s.product
	e.Metadata.LogName = "sallyport"
	e.Metadata.CorrelationUID = s.id
	e.Metadata.Sequence = s.sequence.Add(1)
	e.Device = s.device
	if e.DispositionID == Blocked && e.Metadata.UID == "" {
		e.Metadata.UID = s.DenialID()
	}
	return e
}

func product(version string) Product {
	return Product{Name: "Sallyport", VendorName: "Sallyport", Version: clip(version, maxToken)}
}
