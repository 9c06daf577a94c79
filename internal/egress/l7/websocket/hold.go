package websocket

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Budget bounds the bytes that all relays together hold of messages that are not complete.
type Budget struct{ left atomic.Int64 }

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{}
	b.left.Store(bytes)
	return b
}

// take takes n bytes, or none.
func (b *Budget) take(n int64) bool {
	if b == nil {
		return true
	}
	if b.left.Add(-n) >= 0 {
		return true
	}
	b.left.Add(n)
	return false
}

func (b *Budget) give(n int64) {
	if b != nil {
		b.left.Add(n)
	}
}

// hold is a buffer with a limit, on a budget.
type hold struct {
	b      []byte
	limit  int64
	budget *Budget
}

// grow makes room for n more bytes and returns it.
func (h *hold) grow(n int64) ([]byte, error) {
	have := int64(len(h.b))
	if n > h.limit-have {
		return nil, closeErrorf(TooBig, "a message is longer than %d bytes", h.limit)
	}
	if !h.budget.take(n) {
		return nil, closeErrorf(TryLater, "too many messages are on their way")
	}
	h.b = append(h.b, make([]byte, n)...)
	return h.b[have:], nil
}

// drop empties the buffer and gives its budget back.
func (h *hold) drop() {
	h.budget.give(int64(len(h.b)))
	h.b = nil
}

// inflaters holds decompressors between messages; a connection that is quiet has none.
var inflaters = sync.Pool{New: func() any { return flate.NewReader(bytes.NewReader(nil)) }}

// tail is what a sender leaves out at the end of a message (RFC 7692, section 7.2.2), and an empty last block.
const tail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// inflate appends the text of a compressed message to h. It may write behind compressed. The errors are *CloseError.
func inflate(compressed []byte, h *hold) error {
	z := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(z)
	in := bytes.NewReader(append(compressed, tail...))
	if err := z.(flate.Resetter).Reset(in, nil); err != nil {
		return closeErrorf(Internal, "bug: inflate: %v", err)
	}
	var chunk [8 << 10]byte
	for {
		n, err := z.Read(chunk[:])
		room, full := h.grow(int64(n))
		if full != nil {
			return full
		}
		copy(room, chunk[:n])
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return closeErrorf(BadText, "a message cannot be inflated")
		}
	}
}
