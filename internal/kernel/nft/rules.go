package nft

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Options are what the rules of one namespace depend on.
type Options struct {
	Proxy  netip.AddrPort // the supervisor's listener on the host's end of the pair
	Device string         // the agent's end
}

// The table and its chains, as nft(8) lists them.
const (
	TableName = "sallyport"
	Output    = "output"
	Input     = "input"
	Forward   = "forward"
)

// LogGroup is the nflog group of refused packets. Groups belong to a network
// namespace, so nobody else's is met.
const LogGroup = 3128

// The bounds of the log: a program that sends in a loop does not fill it.
const (
	logPerSecond = 20
	logBurst     = 40
)

// Rule is one row: packets of the chain that match everything meet the verdict.
// The first row that decides is the last one looked at; what no row decides is
// dropped.
type Rule struct {
	Chain string
	Match []Match
	Do    Verdict
	Why   string
}

// Rules is the rule set of an agent's namespace.
func Rules(o Options) []Rule {
	tcp, icmp, icmp6 := protocol(unix.IPPROTO_TCP), protocol(unix.IPPROTO_ICMP), protocol(unix.IPPROTO_ICMPV6)
	lo, pair := leaves("lo"), leaves(o.Device)
	return []Rule{
		{Output, []Match{lo, tcp}, Accept,
			"servers and clients inside talk by TCP; nothing of the host is on this loopback interface"},
		{Output, []Match{lo, icmp, icmpType(unreachable4)}, Accept,
			"how the kernel tells the sender of a rejected packet; the agent has no socket that could send it"},
		{Output, []Match{lo, icmp6, icmpType(unreachable6)}, Accept, "as above"},
		{Output, []Match{pair, tcp, to(o.Proxy.Addr()), toPort(o.Proxy.Port())}, Accept,
			"the proxy is the only way out"},
		{Output, []Match{atMost(logPerSecond, logBurst)}, Log,
			"what comes here went around the gate: somebody wants to know"},
		{Output, []Match{tcp}, Reset, "a program that is refused at once says so"},
		{Output, nil, Prohibit, "UDP, SCTP, DCCP, ICMP and every protocol to come, in IPv4 and IPv6"},

		{Input, []Match{enters("lo")}, Accept, "what was let out to this interface"},
		{Input, []Match{enters(o.Device), tcp, from(o.Proxy.Addr()), fromPort(o.Proxy.Port()), notOpening}, Accept,
			"the proxy's answers; it never opens a connection to the inside"},
		{Input, []Match{atMost(logPerSecond, logBurst)}, Log, "a neighbour on the host knocks"},
	}
}
