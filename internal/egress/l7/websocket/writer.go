package websocket

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// writer writes whole frames to one side, one at a time. After a Close it writes nothing any more
// (RFC 6455, section 5.5.1), and what it is given is dropped.
type writer struct {
	closed atomic.Bool

	mu   sync.Mutex
	w    io.Writer
	mask bool
	buf  []byte
}

// errWrite is a side that cannot be written to.
var errWrite = errors.New("websocket: writing")

// chunk is how much of a payload that is not held is moved at a time, in bytes.
const chunk = 16 << 10

func newWriter(w io.Writer, mask bool) *writer { return &writer{w: w, mask: mask} }

// head appends the head of a frame, with a mask that the sender of its payload cannot know
// (RFC 6455, section 10.3).
func (w *writer) head(h *header) {
	if h.masked = w.mask; w.mask {
		rand.Read(h.mask[:])
	}
	w.buf = h.append(w.buf[:0])
}

// frame writes one frame.
func (w *writer) frame(h header, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed.Load() {
		return nil
	}
	w.closed.Store(h.op == opClose)
	h.length = int64(len(payload))
	w.head(&h)
	for offset := int64(0); ; {
		n := min(len(payload), chunk)
		start := len(w.buf)
		w.buf = append(w.buf, payload[:n]...)
		if w.mask {
			mask(w.buf[start:], h.mask, offset)
		}
		if err := w.flush(); err != nil {
			return err
		}
		payload, offset = payload[n:], offset+int64(n)
		if len(payload) == 0 {
			w.rest()
			return nil
		}
	}
}

// pass writes a frame whose payload is read from r as it comes, with the mask of in. Nothing else is written
// meanwhile. If it fails the frame is cut off, and nothing can follow it.
func (w *writer) pass(in header, r *bufio.Reader) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed.Load() {
		return discard(r, in.length)
	}
	defer func() {
		if err != nil {
			w.closed.Store(true)
		}
	}()
	out := in
	w.head(&out)
	for offset := int64(0); ; {
		if offset < in.length {
			if _, err := r.Peek(1); err != nil {
				return early(err)
			}
			b, _ := r.Peek(int(min(in.length-offset, int64(r.Buffered()))))
			start := len(w.buf)
			w.buf = append(w.buf, b...)
			r.Discard(len(b))
			if in.masked {
				mask(w.buf[start:], in.mask, offset)
			}
			if w.mask {
				mask(w.buf[start:], out.mask, offset)
			}
			offset += int64(len(b))
		}
		if err := w.flush(); err != nil {
			return err
		}
		if offset == in.length {
			w.rest()
			return nil
		}
	}
}

// flush writes what is in the buffer. A side that could not be written to is sent nothing more.
func (w *writer) flush() error {
	_, err := w.w.Write(w.buf)
	w.buf = w.buf[:0]
	if err != nil {
		w.closed.Store(true)
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return nil
}

// rest lets a buffer go that is too large to keep for a connection that may be quiet.
func (w *writer) rest() {
	if cap(w.buf) > 1<<10 {
		w.buf = nil
	}
}

func discard(r *bufio.Reader, n int64) error {
	_, err := io.CopyN(io.Discard, r, n)
	return early(err)
}
