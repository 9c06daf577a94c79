package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Packet is one that the rules refused.
type Packet struct {
	Protocol int // IPPROTO_*
	From, To netip.AddrPort
	UID      int // of the socket's owner; -1 if the kernel does not say
}

// Listener reads what the rules log.
type Listener struct{ c *netlink.Conn }

// Of linux/netfilter/nfnetlink_log.h; golang.org/x/sys/unix has no names for them.
const (
	msgPacket, msgConfig          = 0, 1    // NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG
	attrPayload, attrUID          = 9, 11   // NFULA_PAYLOAD, NFULA_UID
	cfgCommand, cfgMode, cfgBatch = 1, 2, 5 // NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_QTHRESH
	commandBind, copyPacket       = 1, 2    // NFULNL_CFG_CMD_BIND, NFULNL_COPY_PACKET
	headerLength                  = 4       // struct nfgenmsg
)

// Listen binds the log of the calling thread's network namespace. It needs
// CAP_NET_ADMIN there; reading does not. The caller closes the listener.
//
// Precondition: the calling thread is locked.
func Listen() (*Listener, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("nft: log: %w", err)
	}
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Uint8(cfgCommand, commandBind)
	e.Bytes(cfgMode, []byte{0, 0, 0, snapLength, copyPacket, 0}) // struct nfulnl_msg_config_mode
	e.Uint32(cfgBatch, 1)
	attrs, err := e.Encode()
	if err == nil {
		header := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, LogGroup)
		_, err = c.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_ULOG<<8 | msgConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append(header, attrs...),
		})
	}
	if err != nil {
		c.Close()
		if missing(err) {
			return nil, fmt.Errorf("%w: CONFIG_NETFILTER_NETLINK_LOG: %w", ErrNone, err)
		}
		return nil, fmt.Errorf("nft: log: %w", err)
	}
	return &Listener{c}, nil
}

// Next waits for refused packets. What was lost because nobody read in time is
// passed over; an error means that the listener is closed or finished.
func (l *Listener) Next() ([]Packet, error) {
	for {
		msgs, err := l.c.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var out []Packet
		for _, m := range msgs {
			if m.Header.Type != unix.NFNL_SUBSYS_ULOG<<8|msgPacket {
				continue
			}
			p, ok := parseMessage(m.Data)
			if ok && p.From.Addr() != p.To.Addr() { // else the kernel's own notice of a rejected packet
				out = append(out, p)
			}
		}
		if out != nil {
			return out, nil
		}
	}
}

// finishWithin is how long Next may go on after Finish, if the kernel's answer
// was lost. It is far beyond what an answer takes on a machine that is overloaded:
// behind it, what was logged is lost.
const finishWithin = 5 * time.Second

// Finish lets Next return what has been logged so far, and then end: the kernel
// answers a message that it does not take with an error, in line behind the rest.
func (l *Listener) Finish() error {
	_, err := l.c.Send(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_ULOG<<8 | msgPacket, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	return errors.Join(err, l.c.SetReadDeadline(time.Now().Add(finishWithin)))
}

// Close ends Next.
func (l *Listener) Close() error { return l.c.Close() }

// parseMessage reads a struct nfgenmsg and the attributes behind it.
func parseMessage(b []byte) (Packet, bool) {
	if len(b) < headerLength {
		return Packet{}, false
	}
	d, err := netlink.NewAttributeDecoder(b[headerLength:])
	if err != nil {
		return Packet{}, false
	}
	d.ByteOrder = binary.BigEndian
	p, uid, known := Packet{}, -1, false
	for d.Next() {
		switch d.Type() {
		case attrPayload:
			p, known = parsePacket(d.Bytes())
		case attrUID:
			uid = int(d.Uint32())
		}
	}
	p.UID = uid
	return p, known && d.Err() == nil
}

// parsePacket reads the addresses of an IP header, RFC 791 and RFC 8200, and the
// ports behind it where the protocol has them in its first four bytes. IPv6
// extension headers are not followed: the first one is the protocol then.
func parsePacket(b []byte) (Packet, bool) {
	var p Packet
	var from, to netip.Addr
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		p.Protocol = int(b[9])
		from, to = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		b = b[min(len(b), max(20, 4*int(b[0]&0xf))):]
	case len(b) >= 40 && b[0]>>4 == 6:
		p.Protocol = int(b[6])
		from, to = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		b = b[40:]
	default:
		return p, false
	}
	var sport, dport uint16
	switch p.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		if len(b) >= 4 {
			sport, dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
	}
	p.From, p.To = netip.AddrPortFrom(from, sport), netip.AddrPortFrom(to, dport)
	return p, true
}
