package websocket

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// flow moves the frames of one side to the other.
type flow struct {
	*relay
	r      *bufio.Reader
	to     *writer // the other side
	back   *writer // the side it reads from
	peer   *flow   // the other way
	client bool    // that is the client
	judge  func(text bool, message []byte) ([]byte, error)
	binary bool // binary messages pass
	whole  bool // and are judged

	traffic Traffic

	op         byte // of the message that is not complete; 0: there is none
	compressed bool
	frames     int
	message    hold
	late       *time.Timer

	done atomic.Bool // the side has sent a Close
}

// errEnd is the end of a flow after a Close frame.
var errEnd = errors.New("websocket: closed")

// run moves frames until the side has sent a Close or has ended. After the relay has been ended it goes on,
// without passing anything on, to find the side's Close.
func (f *flow) run() {
	defer f.forget()
	for {
		err := f.next()
		broken, violation := errors.AsType[*CloseError](err)
		switch {
		case err == nil:
			continue
		case errors.Is(err, errEnd):
			f.done.Store(true)
			f.limit()
			return
		case violation && broken.Code == ProtocolError:
			f.violated(broken) // where the next frame starts is not known
			io.Copy(io.Discard, f.r)
			return
		case violation:
			f.violated(broken)
		case errors.Is(err, errWrite):
			if !f.peer.done.Load() {
				f.peer.lost(err)
			}
			io.Copy(io.Discard, f.r)
			return
		default:
			f.lost(err)
			return
		}
	}
}

// violated ends the relay for what this side has done.
func (f *flow) violated(why *CloseError) {
	f.forget()
	if f.client {
		f.end(why)
		return
	}
	if f.blame(why) {
		f.sendClose(f.back, why)
		f.sendClose(f.to, closeErrorf(BadGateway, "the server: %s", why.Reason))
	}
}

// lost ends the relay because this side has ended without a Close. A side that was sent one may.
func (f *flow) lost(err error) {
	if f.back.closed.Load() {
		if !f.ended.Load() { // else the other side is being told why
			f.sendClose(f.to, &CloseError{Code: normal})
		}
		return
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	why := closeErrorf(BadGateway, "the server has broken the connection off")
	if f.client {
		why = closeErrorf(GoingAway, "the client has broken the connection off")
	}
	if f.blame(fmt.Errorf("%s: %w", why.Reason, err)) {
		f.sendClose(f.to, why)
	}
}

// next moves one frame. A *CloseError that is no [ProtocolError] comes after the whole frame has been read.
func (f *flow) next() error {
	h, err := readHeader(f.r, f.client, f.Deflate)
	if err != nil {
		return err
	}
	f.traffic.Bytes += h.length
	if h.control() {
		return f.control(h)
	}
	if (h.op == opContinue) != (f.op != 0) {
		return closeErrorf(ProtocolError, "a fragment without a message, or a message within another one")
	}
	if h.op != opContinue {
		f.op, f.compressed, f.frames = h.op, h.rsv1, 0
	}
	op := f.op
	if h.fin {
		f.op = 0
		f.traffic.Messages++
	}
	switch {
	case f.ended.Load():
		return discard(f.r, h.length)
	case (op == opText || f.whole) && f.judge != nil:
		return f.collect(h, op)
	case !f.binary && op == opBinary:
		return f.refuse(h, Policy, "binary messages are not allowed")
	case f.client && h.length > f.MaxBinary:
		return f.refuse(h, TooBig, fmt.Sprintf("a binary frame is longer than %d bytes", f.MaxBinary))
	}
	return f.to.pass(h, f.r)
}

// refuse reads the payload of a frame away.
func (f *flow) refuse(h header, code int, reason string) error {
	why := &CloseError{code, reason}
	f.violated(why)
	return discard(f.r, h.length)
}

func (f *flow) control(h header) error {
	b := make([]byte, h.length)
	if _, err := io.ReadFull(f.r, b); err != nil {
		return early(err)
	}
	if h.masked {
		mask(b, h.mask, 0)
	}
	if h.op != opClose {
		return f.to.frame(h, b)
	}
	if err := checkClose(b); err != nil {
		f.violated(err.(*CloseError))
		return errEnd
	}
	if f.ended.Load() {
		return errEnd // it answers a Close of ours, and the other side has been sent its own
	}
	if err := f.to.frame(h, b); err != nil {
		return err
	}
	return errEnd
}

// collect adds a frame to the message, and sends the message when it is complete and allowed.
func (f *flow) collect(h header, op byte) error {
	if f.frames++; f.frames > f.MaxFragments {
		return f.refuse(h, Policy, fmt.Sprintf("a message has more than %d fragments", f.MaxFragments))
	}
	if f.frames == 1 {
		f.message = hold{limit: f.MaxMessage, budget: f.Budget}
		if !h.fin || h.length > int64(f.r.Buffered()) { // else all of it is here
			f.late = time.AfterFunc(f.MessageTime, func() { f.end(closeErrorf(Policy, "a message took longer than %v", f.MessageTime)) })
		}
	}
	room, err := f.message.grow(h.length)
	if err != nil {
		f.violated(err.(*CloseError))
		return discard(f.r, h.length)
	}
	if _, err := io.ReadFull(f.r, room); err != nil {
		return early(err)
	}
	if h.masked {
		mask(room, h.mask, 0)
	}
	if !h.fin {
		return nil
	}
	defer f.forget()
	return f.deliver(op)
}

// deliver judges the collected message and sends what the judge gives for it.
func (f *flow) deliver(op byte) error {
	message := f.message.b
	if f.compressed {
		inflated := hold{limit: f.MaxMessage, budget: f.Budget}
		defer inflated.drop()
		if err := inflate(message, &inflated); err != nil {
			return err
		}
		message = inflated.b
	}
	if op == opText && !utf8.Valid(message) {
		return closeErrorf(BadText, "a text message is not UTF-8")
	}
	send, err := f.ask(op == opText, message)
	if err != nil {
		why, ok := errors.AsType[*CloseError](err)
		if !ok {
			why = &CloseError{Policy, err.Error()}
		}
		f.end(why) // it is ours to say, whichever side has sent the message
		return nil
	}
	return f.to.frame(header{fin: true, op: op}, send)
}

// ask is judge; a judge that panics has allowed nothing.
func (f *flow) ask(text bool, message []byte) (send []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			send, err = nil, closeErrorf(Internal, "bug: the judge panicked")
		}
	}()
	return f.judge(text, message)
}

// forget drops the message that is not complete.
func (f *flow) forget() {
	if f.late != nil {
		f.late.Stop()
		f.late = nil
	}
	f.message.drop()
}
