package secret

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Redacted is what a Value prints.
const Redacted = "[redacted]"

// Bounds of a secret, in bytes. A shorter one could not be told from ordinary
// text in an answer that is searched for it.
const (
	MinSize = 8
	MaxSize = 16 << 10
)

// Why bytes are no secret. None of them tells anything about the bytes.
var (
	ErrShort   = fmt.Errorf("a secret has at least %d bytes", MinSize)
	ErrLong    = fmt.Errorf("a secret has at most %d KiB", MaxSize>>10)
	ErrControl = errors.New("a secret holds no control bytes (CR, LF, NUL and the like)")
)

// Value is one secret. Copies share it: Wipe ends all of them. The zero Value is
// no secret. It is safe for concurrent use.
type Value struct{ open func() *hidden }

// hidden is behind a func: fmt looks into unexported fields without asking for
// methods, and follows a pointer there when the verb is a bad one.
type hidden struct {
	mu sync.RWMutex
	b  []byte
}

// New takes ownership of b and makes it a secret. What cannot be one is wiped.
// The errors are ErrShort, ErrLong and ErrControl.
func New(b []byte) (Value, error) {
	if err := check(b); err != nil {
		clear(b)
		return Value{}, err
	}
	h := &hidden{b: b}
	return Value{func() *hidden { return h }}, nil
}

func check(b []byte) error {
	switch {
	case len(b) < MinSize:
		return ErrShort
	case len(b) > MaxSize:
		return ErrLong
	}
	for _, c := range b {
		if c < ' ' || c == 0x7f {
			return ErrControl
		}
	}
	return nil
}

// Use lends the bytes to f, which must not keep or change them. It is false, and
// f is not called, if there is no secret or it was wiped.
func (v Value) Use(f func(b []byte)) bool {
	if v.open == nil {
		return false
	}
	h := v.open()
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.b) == 0 {
		return false
	}
	f(h.b)
	return true
}

// Reveal is a copy of the secret as text, empty if there is none. A string cannot
// be wiped: take it only for what is about to be sent.
func (v Value) Reveal() (s string) {
	v.Use(func(b []byte) { s = string(b) })
	return s
}

// Equal tells whether both are the same secret.
func (v Value) Equal(o Value) bool { return v.Reveal() == o.Reveal() }

// Wipe overwrites the secret. Copies that Reveal made are not reached.
func (v Value) Wipe() {
	if v.open == nil {
		return
	}
	h := v.open()
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.b)
	h.b = nil
}

// String is Redacted, as is every other way to print a Value.
func (Value) String() string { return Redacted }

// GoString is Redacted.
func (Value) GoString() string { return Redacted }

// Format prints Redacted for every verb and flag.
func (Value) Format(s fmt.State, _ rune) { io.WriteString(s, Redacted) }

// MarshalText is Redacted; encoding/json, log/slog and YAML encoders use it.
func (Value) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON is Redacted.
func (Value) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// MarshalBinary refuses: a secret is not stored.
func (Value) MarshalBinary() ([]byte, error) { return nil, errors.New("secret: not to be encoded") }
