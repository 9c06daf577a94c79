package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"net/url"

	"sallyport/internal/egress/identity"
	"sallyport/internal/egress/middleware"
	"sallyport/internal/policy"
)

// Decider says what a program may reach and what it may ask for there. It must
// be safe for concurrent use. An error means that there is no decision, which is
// a denial.
type Decider interface {
	// Decide is about a host and port.
	Decide(ctx context.Context, q Query) (Decision, error)
	// Endpoint is the one that owns a canonical path among those that admit q;
	// false if none does.
	Endpoint(ctx context.Context, q Query, path string) (*policy.Endpoint, bool)
	// DecideRequest is about one request of a connection that q was allowed for.
	DecideRequest(ctx context.Context, q Query, r policy.Request) (Decision, error)
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

	Endpoint    *policy.Endpoint  // that allows it; one that is inspected before one that is not
	AllowedIPs  []netip.Prefix    // what it grants beyond public addresses
	HostService netip.AddrPort    // loopback service to dial in the host's place; zero if none
	Middleware  middleware.Stages // that its messages pass once they are allowed
	Missing     *Missing          // the narrowest rule that would have allowed it, if one would
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

// Inspector ends TLS on both sides of a connection. Without one, endpoints whose
// rules can be kept only by reading are refused over TLS. It must be safe for
// concurrent use.
type Inspector interface {
	// ServerOnHost makes this proxy pass for host, which is canonical, before the
	// client that said hello. The configuration is not to be changed.
	ServerOnHost(hello *tls.ClientHelloInfo, host string, h2 bool) (*tls.Config, error)
	// Client accepts host only. With h2, HTTP/2 is offered before HTTP/1.1.
	Client(host string, h2 bool) (*tls.Config, error)
}

// Credentials put secrets in the place of what the agent was given. They must be
// safe for concurrent use.
type Credentials interface {
	// Apply changes a request that was allowed, just before it is sent to host
	// and port. An error means that it must not be sent; its text is for the
	// agent and holds no secret. It may have the methods
	// Status and Reason.
	Apply(ctx context.Context, e *policy.Endpoint, host string, port uint16, r *http.Request) error
	// Scrub takes the same secrets out of the answer, as it streams. An error
	// means that the answer must not be passed on.
	Scrub(e *policy.Endpoint, host string, port uint16, r *http.Response) error
	// Message is Apply for one message of a WebSocket that a request for target
	// has opened. b is not changed.
	Message(ctx context.Context, e *policy.Endpoint, host string, port uint16, target *url.URL, text bool, b []byte) ([]byte, error)
}

// Local answers for hosts in the proxy's own process, by name. A request comes
// to it after it was judged like any other.
type Local map[string]LocalHost

// LocalHost answers for one host. Its error is told to the agent. An answer with
// the header X-Sallyport-Policy: error=REASON is a refusal and becomes an event;
// its Status is the sentence.
type LocalHost interface {
	http.RoundTripper
	// MaxBody is how long a request's body may be, in bytes. Of one that is longer
	// RoundTrip sees the length, or at least one byte more, and no body.
	MaxBody() int64
}
