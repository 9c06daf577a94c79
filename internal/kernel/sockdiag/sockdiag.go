// Package sockdiag asks the kernel which socket would take a TCP connection and
// how far a connection is, and hears of connections that end.
//
// A question is about one address, answered from the hash table that a
// connection would be looked up in (inet_diag_find_one_icsk in
// net/ipv4/inet_diag.c): some microseconds, where /proc/net/tcp walks the table
// of all connections. It needs no privilege, and neither does listening.
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
	cookieAt    = 44 // id.idiag_cookie
	tcpListen   = 10 // TCP_LISTEN
	tcpTimeWait = 6  // TCP_TIME_WAIT
)

// anySocket is INET_DIAG_NOCOOKIE.
const anySocket = ^uint64(0)

// Listener gives the inode of the socket that listens where a connection to a
// would arrive, one that is bound to every address included. ENOENT: none does,
// or this kernel cannot tell.
func (c *Client) Listener(a netip.AddrPort) (inode uint64, err error) {
	m, err := c.ask(a, netip.AddrPort{}, anySocket)
	switch {
	case err != nil:
		return 0, err
	case m[stateAt] != tcpListen:
		return 0, unix.ENOENT // a connection from that very address and port
	}
	return uint64(binary.NativeEndian.Uint32(m[inodeAt:])), nil
}

// State is how far a connection is, TCP_ESTABLISHED and so on of linux/tcp_states.h.
type State byte

// UnderWay is the state of a connection that the other end has not answered,
// TCP_SYN_SENT.
const UnderWay State = 2

// Moves says that bytes of the connection's own end can still leave, now or when
// it is made.
func (s State) Moves() bool { return s == 1 || s == UnderWay || s == 8 } // ESTABLISHED, CLOSE_WAIT

// Connection is how far one is, and what it has carried.
type Connection struct {
	State State
	Count Count
}

// Connection gives the socket with this cookie (SO_COOKIE) that is connected from
// local to remote. ENOENT: there is none, or this kernel cannot tell; a connection in
// TIME_WAIT has no socket any more.
func (c *Client) Connection(local, remote netip.AddrPort, cookie uint64) (Connection, error) {
	m, err := c.ask(local, remote, cookie)
	switch {
	case err == unix.ESTALE:
		return Connection{}, unix.ENOENT // another one has its addresses by now
	case err != nil:
		return Connection{}, err
	case m[stateAt] == tcpTimeWait:
		return Connection{}, unix.ENOENT
	}
	return Connection{State(m[stateAt]), count(m)}, nil
}

// ask gives the struct inet_diag_msg of the socket that is asked for.
func (c *Client) ask(local, remote netip.AddrPort, cookie uint64) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd == 0 {
		fd, err := open()
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		c.fd = fd
	}
	c.seq++
	if err := unix.Sendto(c.fd, request(local, remote, cookie, c.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	var buf [1024]byte
	for {
		n, err := unix.Read(c.fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		if m, mine, err := parse(buf[:n], c.seq); mine {
			return m, err
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

// request asks for the socket with a local address, a remote one if that is
// valid, and a cookie.
func request(local, remote netip.AddrPort, cookie uint64, seq uint32) []byte {
	family := byte(unix.AF_INET)
	if local.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := make([]byte, sizeHeader+sizeRequest)
	e := binary.NativeEndian
	e.PutUint32(b, uint32(len(b)))
	e.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	e.PutUint16(b[6:], unix.NLM_F_REQUEST)
	e.PutUint32(b[8:], seq)
	q := b[sizeHeader:]
	q[0], q[1], q[2] = family, unix.IPPROTO_TCP, 1<<(infoAttr-1)
	e.PutUint32(q[4:], ^uint32(0))                    // every state
	binary.BigEndian.PutUint16(q[8:], local.Port())   // idiag_sport
	copy(q[12:28], local.Addr().AsSlice())            // idiag_src
	binary.BigEndian.PutUint16(q[10:], remote.Port()) // idiag_dport
	copy(q[28:44], remote.Addr().AsSlice())           // idiag_dst
	e.PutUint64(q[48:], cookie)
	return b
}

// parse reads one answer. mine is false for one to an earlier question.
func parse(b []byte, seq uint32) (m []byte, mine bool, err error) {
	e := binary.NativeEndian
	if len(b) < sizeHeader {
		return nil, true, fmt.Errorf("sock_diag: answer of %d bytes", len(b))
	}
	if e.Uint32(b[8:]) != seq {
		return nil, false, nil
	}
	body := b[sizeHeader:]
	switch typ := e.Uint16(b[4:]); {
	case typ == unix.NLMSG_ERROR && len(body) >= 4:
		return nil, true, unix.Errno(-int32(e.Uint32(body)))
	case typ != unix.SOCK_DIAG_BY_FAMILY || len(body) < sizeMessage:
		return nil, true, fmt.Errorf("sock_diag: answer of type %d with %d bytes", typ, len(body))
	}
	return body, true, nil
}
