package dns

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"time"
)

// Bounds of connections.
const (
	maxConns     = 256  // at once; more are closed at once, which Options.Refused is told of
	maxQueries   = 1024 // on one connection, then it is closed; resolvers connect anew
	queryTimeout = 10 * time.Second
)

// ServeTCP answers the messages of a connection, each with its length in front
// (RFC 7766), and closes it: at its end, when nothing came for 10 seconds, after
// a message that cannot be answered, or when ctx is done. It takes ownership of
// c and returns when it is closed.
func (s *Server) ServeTCP(ctx context.Context, c net.Conn) {
	defer c.Close()
	if s.conns.Add(1) > maxConns {
		s.conns.Add(-1)
		s.refusals.add(".", ReasonBusy)
		return
	}
	defer s.conns.Add(-1)
	defer context.AfterFunc(ctx, func() { c.Close() })()
	buf := make([]byte, 2+512)
	for range maxQueries {
		if c.SetDeadline(time.Now().Add(queryTimeout)) != nil {
			return
		}
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf))
		if n > maxQuery {
			return
		}
		if n > len(buf) {
			buf = make([]byte, maxQuery)
		}
		if _, err := io.ReadFull(c, buf[:n]); err != nil {
			return
		}
		answer := s.ServeMessage(ctx, buf[:n])
		if answer == nil {
			return
		}
		out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
		if _, err := c.Write(append(out, answer...)); err != nil {
			return
		}
	}
}
