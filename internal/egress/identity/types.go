package identity

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
)

// Errors that callers tell apart. Every one means that the caller is refused.
var (
	// ErrNotBooked: no connection with this local address was made by the gate.
	ErrNotBooked = errors.New("identity: connection was not made by the gate")
	// ErrChanged: the executable differs from what its path held before.
	ErrChanged = errors.New("identity: executable has changed")
	// ErrFull: a table is full, and what is in it cannot be given up.
	ErrFull = errors.New("identity: too many executables or connections at once")
	// ErrUnknown: the caller's program or one that started it cannot be told.
	ErrUnknown = errors.New("identity: program cannot be told")
	// ErrClosed: the ledger was closed.
	ErrClosed = errors.New("identity: ledger is closed")
)

// Kind tells what sort of thing an executable is.
type Kind uint8

// The kinds. Only File has a path that leads to it and nothing else between.
const (
	File    Kind = iota
	Deleted      // its path leads nowhere, or to another file by now
	Memfd        // memory with a name, memfd_create(2)
	Loader       // a dynamic loader that was named on the command line; what it runs is not known
)

func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Deleted:
		return "deleted"
	case Memfd:
		return "memfd"
	case Loader:
		return "loader"
	}
	return "kind " + strconv.Itoa(int(k))
}

// MarshalText gives the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Binary is one executable.
type Binary struct {
	// Path is the name that a policy matches: an absolute path for a File, else
	// the kind, a colon and the path or name, as in "memfd:tool" or
	// "deleted:/usr/bin/curl". No pattern for paths matches those by accident.
	Path   string `json:"path"`
	SHA256 string `json:"sha256,omitempty"` // of the content, in hex
	Kind   Kind   `json:"kind"`
}

// Process is who made a connection. It is not to be changed.
type Process struct {
	PID       int      // thread group
	Exe       string   // as [Binary.Path]
	SHA256    string   // in hex; empty before [Connection.Identify]
	Kind      Kind     // never Loader before [Connection.Identify]
	Ancestors []Binary // the parent first, the sandbox's first process last
}

// Connection is one connection that the gate has made for a process.
type Connection struct {
	Process *Process       // as seen from the outside: for messages, not for decisions
	Wanted  netip.AddrPort // what the process asked to connect to
	Local   netip.AddrPort // our peer: the process's end of the connection

	ledger *Ledger
	seen   *snapshot
}

// Identify returns the process with the content of every executable known and
// held against what was seen under the same path before. It waits for the
// reading of an executable that is new. The errors are [ErrChanged], [ErrFull],
// [ErrUnknown], [ErrClosed] and those of ctx.
func (c *Connection) Identify(ctx context.Context) (*Process, error) {
	return c.ledger.identify(ctx, c.seen)
}
