package address

import "net/netip"

// Class says whether a policy's allowed_ips can open a range.
type Class uint8

// The classes of refused ranges.
const (
	Always   Class = iota + 1 // refused whatever the policy says
	Internal                  // refused unless allowed_ips covers the address
)

// Refusal is why an address must not be dialled. Values are rows of this
// package's tables; they are shared and must not be changed.
type Refusal struct {
	Range netip.Prefix
	Class Class
	Code  string // stable, such as loopback or private
	Why   string // the range in words
	Via   string // how an IPv6 address carries the refused IPv4 one; empty otherwise
}

// Error says what the address is and whether a policy could allow it.
func (r *Refusal) Error() string {
	s := r.Why
	if r.Range.IsValid() {
		s += " (" + r.Range.String() + ")"
	}
	if r.Via != "" {
		s += ", inside " + r.Via
	}
	if r.Class == Internal {
		return s + ": needs allowed_ips"
	}
	return s + ": never allowed"
}

// Refusals of what is not an address to dial at all.
var (
	invalid = Refusal{Class: Always, Code: "invalid", Why: "not an address"}
	zoned   = Refusal{Class: Always, Code: "zone", Why: "address with a zone"}
)

// v4 is searched in order; the first range that holds an address decides.
// Registry: https://www.iana.org/assignments/iana-ipv4-special-registry
var v4 = []Refusal{
	row("169.254.169.254/32", Always, "metadata", "cloud metadata service"),
	row("169.254.170.2/32", Always, "metadata", "container credentials service"),
	row("169.254.170.23/32", Always, "metadata", "pod credentials service"),
	row("100.100.100.200/32", Always, "metadata", "cloud metadata service"),
	row("168.63.129.16/32", Always, "metadata", "cloud wire server"),
	row("192.0.0.192/32", Always, "metadata", "cloud metadata service"),
	row("0.0.0.0/32", Always, "unspecified", "unspecified address, which is this host"),
	row("0.0.0.0/8", Always, "this_network", "this network, RFC 791"),
	row("127.0.0.0/8", Always, "loopback", "loopback"),
	row("169.254.0.0/16", Always, "link_local", "link-local, RFC 3927"),
	row("224.0.0.0/4", Always, "multicast", "multicast, RFC 5771"),
	row("255.255.255.255/32", Always, "broadcast", "limited broadcast"),
	row("240.0.0.0/4", Always, "reserved", "reserved, RFC 1112"),

	row("10.0.0.0/8", Internal, "private", "private, RFC 1918"),
	row("172.16.0.0/12", Internal, "private", "private, RFC 1918"),
	row("192.168.0.0/16", Internal, "private", "private, RFC 1918"),
	row("100.64.0.0/10", Internal, "shared", "shared address space, RFC 6598"),
	row("192.0.0.0/24", Internal, "protocol", "IETF protocol assignments, RFC 6890"),
	row("192.0.2.0/24", Internal, "documentation", "test network 1, RFC 5737"),
	row("198.51.100.0/24", Internal, "documentation", "test network 2, RFC 5737"),
	row("203.0.113.0/24", Internal, "documentation", "test network 3, RFC 5737"),
	row("198.18.0.0/15", Internal, "benchmarking", "benchmarking, RFC 2544"),
	row("192.88.99.0/24", Internal, "relay", "6to4 relay anycast, RFC 7526"),
}

// v6 is searched like v4, after the forms of embedded have been looked into.
// Registry: https://www.iana.org/assignments/iana-ipv6-special-registry
var v6 = []Refusal{
	row("fd00:ec2::254/128", Always, "metadata", "cloud metadata service"),
	row("fd00:ec2::23/128", Always, "metadata", "pod credentials service"),
	row("fd20:ce::254/128", Always, "metadata", "cloud metadata service"),
	row("::/128", Always, "unspecified", "unspecified address, which is this host"),
	row("::1/128", Always, "loopback", "loopback"),
	row("fe80::/10", Always, "link_local", "link-local, RFC 4291"),
	row("ff00::/8", Always, "multicast", "multicast, RFC 4291"),

	row("fc00::/7", Internal, "private", "unique local, RFC 4193"),
	row("fec0::/10", Internal, "private", "site-local, RFC 3879"),
	row("64:ff9b:1::/48", Internal, "private", "local-use NAT64, RFC 8215"),
	row("2001:2::/48", Internal, "benchmarking", "benchmarking, RFC 5180"),
	row("2001:10::/28", Internal, "protocol", "ORCHID, RFC 4843"),
	row("2001:20::/28", Internal, "protocol", "ORCHIDv2, RFC 7343"),
	row("2001:db8::/32", Internal, "documentation", "documentation, RFC 3849"),
	row("3fff::/20", Internal, "documentation", "documentation, RFC 9637"),
}

// Of IPv6, only 2000::/3 is assigned as global unicast (RFC 4291, section 2.4).
// The well-known NAT64 prefix lies outside and stands for the IPv4 Internet.
var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	wellKnown64   = netip.MustParsePrefix("64:ff9b::/96")
	unassigned    = row("::/0", Internal, "reserved", "outside global unicast, RFC 4291")
)

func row(prefix string, c Class, code, why string) Refusal {
	return Refusal{Range: netip.MustParsePrefix(prefix), Class: c, Code: code, Why: why}
}
