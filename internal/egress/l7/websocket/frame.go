package websocket

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// The opcodes.
const (
	opContinue = 0x0
	opText     = 0x1
	opBinary   = 0x2
	opClose    = 0x8
	opPing     = 0x9
	opPong     = 0xa
)

// The close codes that are used here.
const (
	normal        = 1000
	GoingAway     = 1001
	ProtocolError = 1002
	BadText       = 1007 // a text message that is not UTF-8, or cannot be inflated
	Policy        = 1008 // a message, or what a new policy does not allow any more
	TooBig        = 1009
	Internal      = 1011
	TryLater      = 1013
	BadGateway    = 1014 // the server broke off, or broke the protocol
)

// CloseError is why a connection was ended, as it is told to the client. A judge may return one.
type CloseError struct {
	Code   int
	Reason string // a sentence, at most 123 bytes of which are told
}

func (e *CloseError) Error() string { return fmt.Sprintf("websocket: %d %s", e.Code, e.Reason) }

func closeErrorf(code int, format string, args ...any) *CloseError {
	return &CloseError{code, fmt.Sprintf(format, args...)}
}

// payload is the body of the Close frame.
func (e *CloseError) payload() []byte {
	reason := e.Reason
	for len(reason) > 123 || !utf8.ValidString(reason) {
		reason = reason[:min(len(reason)-1, 123)]
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(e.Code)), reason...)
}

// header is the head of one frame.
type header struct {
	fin, rsv1 bool
	op        byte
	masked    bool
	mask      [4]byte
	length    int64
}

func (h header) control() bool { return h.op >= opClose }

// readHeader reads and checks the head of a frame (RFC 6455, section 5.2). The errors are *CloseError with
// [ProtocolError], or of the connection: io.EOF only if it ended before the first byte.
func readHeader(r *bufio.Reader, fromClient, deflate bool) (header, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return header{}, err
	}
	if _, err := io.ReadFull(r, b[1:2]); err != nil {
		return header{}, early(err)
	}
	h := header{fin: b[0]&0x80 != 0, rsv1: b[0]&0x40 != 0, op: b[0] & 0x0f, masked: b[1]&0x80 != 0}
	n, reserved := b[1]&0x7f, b[0]&0x30 != 0
	switch {
	case reserved || h.rsv1 && (!deflate || h.control() || h.op == opContinue):
		return h, closeErrorf(ProtocolError, "a reserved bit is set")
	case h.op > opBinary && h.op < opClose || h.op > opPong:
		return h, closeErrorf(ProtocolError, "the opcode %d is not known", h.op)
	case h.control() && (!h.fin || n > 125):
		return h, closeErrorf(ProtocolError, "a control frame is long or in fragments")
	case h.masked != fromClient:
		return h, closeErrorf(ProtocolError, "a client masks its frames and a server does not")
	}
	if err := readLength(r, &h, n); err != nil {
		return h, err
	}
	if h.masked {
		if _, err := io.ReadFull(r, h.mask[:]); err != nil {
			return h, early(err)
		}
	}
	return h, nil
}

func readLength(r *bufio.Reader, h *header, n byte) error {
	var b [8]byte
	switch n {
	case 126:
		if _, err := io.ReadFull(r, b[:2]); err != nil {
			return early(err)
		}
		if h.length = int64(binary.BigEndian.Uint16(b[:2])); h.length < 126 {
			return closeErrorf(ProtocolError, "a length is not written in its shortest form")
		}
	case 127:
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return early(err)
		}
		if h.length = int64(binary.BigEndian.Uint64(b[:])); h.length < 1<<16 { // and the first bit is 0
			return closeErrorf(ProtocolError, "a length is not written in its shortest form, or is not one")
		}
	default:
		h.length = int64(n)
	}
	return nil
}

// early is the error of a connection that ends within a frame.
func early(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// append appends the head of a frame.
func (h header) append(b []byte) []byte {
	first := h.op
	if h.fin {
		first |= 0x80
	}
	if h.rsv1 {
		first |= 0x40
	}
	second := byte(0)
	if h.masked {
		second = 0x80
	}
	switch {
	case h.length < 126:
		b = append(b, first, second|byte(h.length))
	case h.length < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, first, second|126), uint16(h.length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, second|127), uint64(h.length))
	}
	if h.masked {
		b = append(b, h.mask[:]...)
	}
	return b
}

// mask applies a mask in place to the bytes of a payload that start at offset.
func mask(b []byte, key [4]byte, offset int64) {
	for i := range b {
		b[i] ^= key[(offset+int64(i))&3]
	}
}

// checkClose reads the body of a Close frame (RFC 6455, section 5.5.1 and 7.4).
func checkClose(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if len(b) == 1 {
		return closeErrorf(ProtocolError, "a Close frame has half a code")
	}
	code := int(binary.BigEndian.Uint16(b))
	switch {
	case code < 1000 || code > 4999, code > 1014 && code < 3000, code >= 1004 && code <= 1006:
		return closeErrorf(ProtocolError, "a Close frame has the code %d", code)
	case !utf8.Valid(b[2:]):
		return closeErrorf(BadText, "the reason of a Close frame is not UTF-8")
	}
	return nil
}
