package middleware

import (
	"bufio"
	"errors"
	"io"
)

// errEvent is an event that cannot be held.
var errEvent = errors.New("an event of the stream is too large for a middleware")

// Events takes each event of a text/event-stream through each as soon as it is complete, and gives what comes of
// it. An event that is longer than limit bytes, or an error of each, ends the stream. Closing it closes body.
//
// Source: HTML Living Standard, section 9.2.5: an event ends at an empty line; a line ends at CR, LF or both.
func Events(body io.ReadCloser, limit int64, each func(event []byte) ([]byte, error)) io.ReadCloser {
	return &events{Closer: body, r: bufio.NewReader(body), limit: limit, each: each}
}

type events struct {
	io.Closer
	r     *bufio.Reader
	limit int64
	each  func([]byte) ([]byte, error)

	ready []byte
	err   error
	cr    bool // the last byte was a CR
}

// Read implements io.Reader.
func (e *events) Read(b []byte) (int, error) {
	for len(e.ready) == 0 {
		if e.err != nil {
			return 0, e.err
		}
		e.ready, e.err = e.next()
	}
	n := copy(b, e.ready)
	e.ready = e.ready[n:]
	return n, nil
}

// next reads one event, or the rest of the stream.
func (e *events) next() ([]byte, error) {
	event, err := e.event()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(event) == 0 {
		return nil, err
	}
	out, failed := e.each(event)
	if failed != nil {
		return nil, failed
	}
	return out, err
}

func (e *events) event() ([]byte, error) {
	var event []byte
	for empty := true; ; {
		c, err := e.r.ReadByte()
		if err != nil {
			return event, err
		}
		if int64(len(event)) >= e.limit {
			return nil, errEvent
		}
		event = append(event, c)
		second := c == '\n' && e.cr // of one end of a line
		e.cr = c == '\r'
		switch {
		case second:
		case c != '\r' && c != '\n':
			empty = false
		case !empty:
			empty = true
		default:
			if c == '\r' && e.r.Buffered() > 0 {
				if b, _ := e.r.Peek(1); b[0] == '\n' {
					e.r.Discard(1)
					event, e.cr = append(event, '\n'), false
				}
			}
			return event, nil
		}
	}
}
