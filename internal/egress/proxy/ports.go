package proxy

import (
	"context"
	"net"
	"net/netip"

	"sallyport/internal/egress/identity"
	"sallyport/internal/policy"
)

// Decider says whether a program may reach a host and port. It must be safe for
// concurrent use. An error means that there is no decision, which is a denial.
type Decider interface {
	Decide(ctx context.Context, q Query) (Decision, error)
}

// Query is what is to be decided. Host is canonical: a name in lower-case
// A-labels, or an address as netip prints it.
type Query struct {
	Host    string
	Port    uint16
	Process *identity.Process // identified; not to be changed
}

// Decision is the answer to a Query. The zero value is a denial.
type Decision struct {
	Allow      bool
	Reason     string // stable code of a denial, such as no_policy_for_host
	Detail     string // the same as a sentence
	Policy     string // name of the policy document
	Generation uint64 // of the policy, 1 for the first
	Rule       string // key of the network policy that allows it
	Line       int    // of its endpoint, or of the rule that decided about a request

	Audited bool // denied, but for an endpoint that only wants to know

	Endpoint    *policy.Endpoint // that allows it
	AllowedIPs  []netip.Prefix   // what it grants beyond public addresses
	HostService netip.AddrPort   // loopback service to dial in the host's place; zero if none
	Missing     *Missing         // the narrowest rule that would have allowed it, if one would
}

// Missing is a rule for one host, port and program, and for one kind of request
// if the host and port are allowed.
type Missing struct {
	Host   string
	Port   uint16
	Binary string

	Policy   string          // key of the network policy that the rule belongs to
	Protocol policy.Protocol // of its endpoint
	Allow    *policy.Match   // nil: the whole connection
}

// Resolver gives every address of a canonical host name. It is asked only for
// names that a Decider has allowed.
type Resolver interface {
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
}

// Dialer opens a TCP connection to an address that was judged. The connection
// must be a bare one, so that the kernel can move bytes between two of them.
type Dialer interface {
	Dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error)
}

// Caller is who made a connection; *identity.Connection is one.
type Caller interface {
	Identify(ctx context.Context) (*identity.Process, error)
}

// Inspector reads what goes through tunnels: it ends TLS on both sides and
// holds what is inside against an endpoint's rules.
//
// It is the place for a later part of the program. Without one, endpoints whose
// rules can only be kept by reading are refused.
type Inspector interface {
	// Wants tells whether a tunnel to this endpoint must be read.
	Wants(e *policy.Endpoint) bool
	// Inspect carries the tunnel until it ends. It owns client and upstream
	// and closes both. early is what the client has sent already.
	Inspect(ctx context.Context, client, upstream *net.TCPConn, early []byte, q Query, d Decision) error
}

var _ Caller = (*identity.Connection)(nil)
