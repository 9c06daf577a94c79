package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLost says that connections have ended of which nothing was heard.
var ErrLost = errors.New("sock_diag: more connections ended than could be read")

// End is a TCP socket of this network namespace that is gone.
type End struct {
	Cookie uint64 // SO_COOKIE
	Count  Count
}

// Count is the bytes that a connection has received and sent. Known is false where
// the kernel does not tell, or the socket was reset, which clears its counters. An
// end of the peer counts as a byte. Made is true if the other end is known to have
// accepted the connection, whether it has carried a byte or not and also where the
// socket was reset; without Known, false may mean that nothing is known of it.
type Count struct {
	In, Out int64
	Known   bool
	Made    bool
}

// Ends hears of every TCP socket of this network namespace that the kernel gives
// up: after the last descriptor is closed and the last byte is acknowledged, at the
// latest with its time in FIN_WAIT. It needs Linux 4.3.
type Ends struct{ f *os.File }

// Multicast groups of linux/sock_diag.h, as bits.
const (
	endsOfIPv4 = 1 << 0 // SKNLGRP_INET_TCP_DESTROY
	endsOfIPv6 = 1 << 2 // SKNLGRP_INET6_TCP_DESTROY
)

// WatchEnds begins to listen. Whoever gets an Ends closes it.
func WatchEnds() (*Ends, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20) // the kernel takes what it allows
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: endsOfIPv4 | endsOfIPv6}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	return &Ends{os.NewFile(uintptr(fd), "sock_diag")}, nil
}

// Next waits for the next end. [ErrLost] means that some were missed, and more
// will come; os.ErrClosed that Close was called.
func (e *Ends) Next() (End, error) {
	var b [2048]byte
	for {
		n, err := e.f.Read(b[:])
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return End{}, ErrLost
		case err != nil:
			return End{}, err
		}
		if end, ok := parseEnd(b[:n]); ok {
			return end, nil
		}
	}
}

// Close ends Next.
func (e *Ends) Close() error { return e.f.Close() }

// The attribute with struct tcp_info (INET_DIAG_INFO), and places in that, linux/tcp.h.
const (
	infoAttr        = 2
	remoteAt        = 6   // id.idiag_dport of struct inet_diag_msg
	bytesAckedAt    = 120 // the SYN is one of them
	bytesReceivedAt = 128
	minRTTAt        = 148 // Linux 4.6
	bytesSentAt     = 200 // Linux 4.19
	bytesAgainAt    = 208 // tcpi_bytes_retrans
)

// parseEnd reads one message of inet_diag_handler_get_info.
func parseEnd(b []byte) (End, bool) {
	e := binary.NativeEndian
	if len(b) < sizeHeader+sizeMessage || e.Uint16(b[4:]) != unix.SOCK_DIAG_BY_FAMILY {
		return End{}, false
	}
	m := b[sizeHeader:]
	return End{e.Uint64(m[cookieAt:]), count(m)}, true
}

// noRTT is tcpi_min_rtt of a socket of which nothing was ever acknowledged
// (tcp_init_sock in net/ipv4/tcp.c).
const noRTT = ^uint32(0)

// count reads the attributes behind a struct inet_diag_msg.
func count(m []byte) Count {
	e := binary.NativeEndian
	for a := m[sizeMessage:]; len(a) >= unix.SizeofRtAttr; {
		size, typ := int(e.Uint16(a)), e.Uint16(a[2:])
		if size < unix.SizeofRtAttr || size > len(a) {
			break
		}
		if info := a[unix.SizeofRtAttr:size]; typ == infoAttr && len(info) >= bytesAgainAt+8 {
			if e.Uint16(m[remoteAt:]) == 0 { // tcp_disconnect, which clears all but this
				return Count{Made: e.Uint32(info[minRTTAt:]) != noRTT}
			}
			return Count{
				In: int64(e.Uint64(info[bytesReceivedAt:])), Out: int64(e.Uint64(info[bytesSentAt:]) - e.Uint64(info[bytesAgainAt:])),
				Known: true, Made: e.Uint64(info[bytesAckedAt:]) > 0,
			}
		}
		a = a[min(len(a), (size+3)&^3):]
	}
	return Count{}
}
