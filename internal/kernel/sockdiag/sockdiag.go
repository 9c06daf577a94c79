// Package sockdiag asks the kernel which socket would take a TCP connection.
//
// It is a question about one address, answered from the hash table that a
// connection would be looked up in (inet_diag_find_one_icsk in
// net/ipv4/inet_diag.c): some microseconds, where /proc/net/tcp walks the table
// of all connections. It needs no privilege.
//
// Deliberately not here: lists of sockets, and what the answer means.
//
// What must hold: a kernel without this interface gives an error, never an
// answer; a socket may be closed as soon as it has been found.
package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// Client asks over one netlink socket, which it opens when it is first used. The
// zero value is ready; it is safe for concurrent use.
type Client struct {
	mu  sync.Mutex
	fd  int // owned; 0 before the first question
	seq uint32
}

// Sizes and places of the wire format, linux/inet_diag.h.
const (
	sizeHeader  = 16 // struct nlmsghdr
	sizeRequest = 56 // struct inet_diag_req_v2
	sizeMessage = 72 // struct inet_diag_msg
	inodeAt     = 68 // idiag_inode in it
	stateAt     = 1  // idiag_state
	tcpListen   = 10 // TCP_LISTEN
)

// Listener gives the inode of the socket that listens where a connection to a
// would arrive, one that is bound to every address included. ENOENT: none does,
// or this kernel cannot tell.
func (c *Client) Listener(a netip.AddrPort) (inode uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd == 0 {
		if c.fd, err = open(); err != nil {
			c.fd = 0
			return 0, fmt.Errorf("sock_diag: %w", err)
		}
	}
	c.seq++
	if err := unix.Sendto(c.fd, request(a, c.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	var buf [512]byte
	for {
		n, err := unix.Read(c.fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("sock_diag: %w", err)
		}
		if inode, mine, err := parse(buf[:n], c.seq); mine {
			return inode, err
		}
	}
}

// Close gives the socket back.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd == 0 {
		return nil
	}
	fd := c.fd
	c.fd = 0
	return unix.Close(fd)
}

func open() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, err
	}
	// The kernel answers before sendto returns; the timeout is for one that does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// request asks for the socket with a local address and no remote one.
func request(a netip.AddrPort, seq uint32) []byte {
	family := byte(unix.AF_INET)
	if a.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := make([]byte, sizeHeader+sizeRequest)
	e := binary.NativeEndian
	e.PutUint32(b, uint32(len(b)))
	e.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	e.PutUint16(b[6:], unix.NLM_F_REQUEST)
	e.PutUint32(b[8:], seq)
	q := b[sizeHeader:]
	q[0], q[1] = family, unix.IPPROTO_TCP
	e.PutUint32(q[4:], 1<<tcpListen)
	binary.BigEndian.PutUint16(q[8:], a.Port()) // idiag_sport
	copy(q[12:28], a.Addr().AsSlice())          // idiag_src
	e.PutUint64(q[48:], ^uint64(0))             // INET_DIAG_NOCOOKIE
	return b
}

// parse reads one answer. mine is false for one to an earlier question.
func parse(b []byte, seq uint32) (inode uint64, mine bool, err error) {
	e := binary.NativeEndian
	if len(b) < sizeHeader {
		return 0, true, fmt.Errorf("sock_diag: answer of %d bytes", len(b))
	}
	if e.Uint32(b[8:]) != seq {
		return 0, false, nil
	}
	body := b[sizeHeader:]
	switch typ := e.Uint16(b[4:]); {
	case typ == unix.NLMSG_ERROR && len(body) >= 4:
		return 0, true, unix.Errno(-int32(e.Uint32(body)))
	case typ != unix.SOCK_DIAG_BY_FAMILY || len(body) < sizeMessage:
		return 0, true, fmt.Errorf("sock_diag: answer of type %d with %d bytes", typ, len(body))
	case body[stateAt] != tcpListen:
		return 0, true, unix.ENOENT // a connection from that very address and port
	}
	return uint64(e.Uint32(body[inodeAt:])), true, nil
}
