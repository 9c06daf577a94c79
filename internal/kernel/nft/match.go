package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Match is one condition of a rule: in words, as nft(8) writes it, and as the
// kernel takes it.
type Match struct {
	Text string
	expr []expr.Any
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Text string
	expr []expr.Any
}

// The verdicts. Log does not end the way through the chain.
var (
	Accept   = Verdict{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	Reset    = Verdict{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
	Prohibit = Verdict{"reject with icmpx admin-prohibited", []expr.Any{
		&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}}
	Log = Verdict{fmt.Sprintf("log group %d snaplen %d", LogGroup, snapLength), []expr.Any{&expr.Log{
		Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN,
		Group: LogGroup, Snaplen: snapLength,
	}}}
)

// snapLength is how much of a refused packet is logged: the longest IPv4 header
// and the ports behind it.
const snapLength = 64

// The types of "destination unreachable", RFC 792 and RFC 4443.
const (
	unreachable4 = 3
	unreachable6 = 1
)

const register = 1 // NFT_REG_1

func equal(load expr.Any, data []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}}
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: register} }

func payload(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

// device is a name as the kernel compares it: all of IFNAMSIZ.
func device(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func leaves(name string) Match {
	return Match{"oifname " + name, equal(meta(expr.MetaKeyOIFNAME), device(name))}
}

func enters(name string) Match {
	return Match{"iifname " + name, equal(meta(expr.MetaKeyIIFNAME), device(name))}
}

func protocol(number byte) Match {
	return Match{fmt.Sprintf("meta l4proto %d", number), equal(meta(expr.MetaKeyL4PROTO), []byte{number})}
}

// address compares an IPv4 address of the header, which is one only if the
// packet is IPv4.
func address(word string, offset uint32, a netip.Addr) Match {
	b := a.As4()
	e := equal(meta(expr.MetaKeyNFPROTO), []byte{unix.NFPROTO_IPV4})
	return Match{fmt.Sprintf("ip %s %v", word, a), append(e, equal(payload(expr.PayloadBaseNetworkHeader, offset, 4), b[:])...)}
}

func from(a netip.Addr) Match { return address("saddr", 12, a) }
func to(a netip.Addr) Match   { return address("daddr", 16, a) }

func port(word string, offset uint32, p uint16) Match {
	return Match{fmt.Sprintf("th %s %d", word, p),
		equal(payload(expr.PayloadBaseTransportHeader, offset, 2), binary.BigEndian.AppendUint16(nil, p))}
}

func fromPort(p uint16) Match { return port("sport", 0, p) }
func toPort(p uint16) Match   { return port("dport", 2, p) }

func icmpType(t byte) Match {
	return Match{fmt.Sprintf("icmp type %d", t), equal(payload(expr.PayloadBaseTransportHeader, 0, 1), []byte{t})}
}

// notOpening matches every TCP segment but one that opens a connection: SYN
// without ACK.
var notOpening = Match{"tcp flags & (syn|ack) != syn", []expr.Any{
	payload(expr.PayloadBaseTransportHeader, 13, 1),
	&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{0x12}, Xor: []byte{0}},
	&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte{0x02}},
}}

func atMost(perSecond uint64, burst uint32) Match {
	return Match{fmt.Sprintf("limit rate %d/second burst %d packets", perSecond, burst),
		[]expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: perSecond, Unit: expr.LimitTimeSecond, Burst: burst}}}
}
