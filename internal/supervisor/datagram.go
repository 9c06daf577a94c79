package supervisor

import (
	"net"
	"os"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
)

// standIn is the supervisor's end of a packet pair that the agent holds in the
// place of a UDP socket: each packet is one query for the policy DNS.
type standIn struct {
	conn   *net.UnixConn
	answer func(query []byte) []byte
}

// maxDatagram is the longest query that is read, RFC 6891.
const maxDatagram = 4096

// newStandIn takes ownership of fd and serves it until the agent's end is gone.
func newStandIn(fd int, answer func([]byte) []byte, closed func()) gate.Datagrams {
	f := os.NewFile(uintptr(fd), "dns")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return deaf{}
	}
	s := &standIn{c.(*net.UnixConn), answer}
	go func() {
		defer closed()
		defer s.conn.Close()
		b := make([]byte, maxDatagram)
		for {
			n, err := gate.Receive(s.conn, b)
			if err != nil || n == 0 {
				return
			}
			s.Send(b[:n])
		}
	}()
	return s
}

// Send answers one query. It never waits: an agent that does not read loses
// answers, as with UDP.
func (s *standIn) Send(query []byte) {
	a := s.answer(query)
	raw, err := s.conn.SyscallConn()
	if a == nil || err != nil {
		return
	}
	raw.Write(func(fd uintptr) bool {
		unix.SendmsgN(int(fd), a, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
}

type deaf struct{}

func (deaf) Send([]byte) {}
