package middleware

import (
	"bufio"
	"errors"
	"io"
)

// Events takes each event of a text/event-stream through each as soon as it is complete, and gives what comes of
// it. An event that is longer than limit bytes is none that could be shown: each is told that it is too large, and
// unless that is an error it passes as it is. room is asked for the memory of an event until it has been read,
// and given it back as a negative number. An error of one of the two ends the stream. Closing it closes body, and
// gives back what is left; it must not be closed during a Read.
//
// Source: HTML Living Standard, section 9.2.5: an event ends at an empty line; a line ends at CR, LF or both.
func Events(body io.ReadCloser, limit int64, each func(event []byte, tooLarge bool) ([]byte, error), room func(bytes int64) error) io.ReadCloser {
	return &events{Closer: body, r: bufio.NewReader(body), limit: limit, each: each, room: room, empty: true}
}

// eventRoom is how much of an event is held at a time, in bytes. The first part is not asked for.
const eventRoom = 4 << 10

type events struct {
	io.Closer
	r     *bufio.Reader
	limit int64
	each  func([]byte, bool) ([]byte, error)
	room  func(int64) error
	taken int64 // of room

	ready []byte
	err   error
	cr    bool // the last byte was a CR
	empty bool // nothing of the line has come yet
	large bool // what comes belongs to an event that is too large
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

// Close implements io.Closer.
func (e *events) Close() error {
	e.give()
	return e.Closer.Close()
}

// next reads one event, a part of one that is too large, or the rest of the stream.
func (e *events) next() ([]byte, error) {
	e.give() // what was ready has been read
	event, whole, err := e.event()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	out, failed := event, error(nil)
	switch {
	case e.large: // and was let through
	case !whole:
		_, failed = e.each(nil, true)
	case len(event) > 0:
		out, failed = e.each(event, false)
	}
	if failed != nil {
		return nil, failed
	}
	e.large = !whole
	return out, err
}

func (e *events) take() error {
	err := e.room(eventRoom)
	if err == nil {
		e.taken += eventRoom
	}
	return err
}

func (e *events) give() {
	if e.taken > 0 {
		e.room(-e.taken) //nolint:errcheck // it is not asked for anything
		e.taken = 0
	}
}

// event reads up to the end of an event, but no more than limit bytes.
func (e *events) event() (event []byte, whole bool, err error) {
	for int64(len(event)) < e.limit {
		c, err := e.r.ReadByte()
		if err != nil {
			return event, true, err
		}
		if len(event) > 0 && len(event)%eventRoom == 0 {
			if err := e.take(); err != nil {
				return nil, true, err
			}
		}
		event = append(event, c)
		second := c == '\n' && e.cr // of one end of a line
		e.cr = c == '\r'
		switch {
		case second:
		case c != '\r' && c != '\n':
			e.empty = false
		case !e.empty:
			e.empty = true
		default:
			if c == '\r' && e.r.Buffered() > 0 {
				if b, _ := e.r.Peek(1); b[0] == '\n' {
					e.r.Discard(1)
					event, e.cr = append(event, '\n'), false
				}
			}
			return event, true, nil
		}
	}
	return event, false, nil
}
