package rego

import (
	"fmt"
	"net/netip"
	"slices"

	"sallyport/internal/policy"
)

// Input is what a decision is about.
type Input struct {
	// Host is the wanted host in canonical form (match.CanonicalHost): a name, or the text of an address.
	// Anything else matches nothing.
	Host string
	Port uint16
	// Exe is the path of the calling executable as the kernel knows it, empty when it is not known.
	Exe string
	// Ancestors are the executables of the caller's ancestors, up to the root of the sandbox, in any order.
	Ancestors []string
}

// Reasons, the stable codes of a [Result]. The first three denials come from the module, the last three mean
// that it gave no decision.
const (
	ReasonAllowed   = "allowed"
	ReasonHost      = "no_policy_for_host" // no endpoint of the policy matches the host
	ReasonPort      = "port_not_allowed"   // some match the host, none of them has the port
	ReasonBinary    = "binary_not_allowed" // some match host and port, none of them for this program
	ReasonUndefined = "policy_undefined"
	ReasonTimeout   = "policy_timeout"
	ReasonError     = "policy_error"
)

// Result is a decision. The zero value is a denial. What it points to belongs to the policy and is read-only.
type Result struct {
	Allow      bool
	Reason     string // one of the Reason codes
	Detail     string // a sentence for people
	Generation uint64 // of the policy that decided

	// The endpoint that allowed it, of the policy with the smallest key when there are several. If one of them is
	// inspected, it is the first of those.
	Policy        string // key
	EndpointIndex int    // in the policy
	Line          int    // of the endpoint in the policy file
	Endpoint      *policy.Endpoint
	// AllowedIPs are the prefixes that any of the allowing endpoints grants beyond public addresses.
	AllowedIPs []netip.Prefix
	// HostService is set when host and port are a service of the host: its address is what must be dialled.
	HostService *policy.HostService

	// Missing is the narrowest rule that would allow what was denied, nil when no rule would: the caller is not
	// known, or there was no decision.
	Missing *RuleMissing
}

// RuleMissing is a rule for one host, one port and one binary.
type RuleMissing struct {
	Host   string `json:"host"`
	Port   uint16 `json:"port"`
	Binary string `json:"binary"`
}

// allowed makes the result of a connection that these endpoints admit, in order. One that is inspected is the one
// to report: the connection is to be read, whatever else admits it.
func (e *Engine) allowed(in Input, admitting []endpoint) Result {
	if i := slices.IndexFunc(admitting, endpoint.reads); i > 0 {
		admitting[0], admitting[i] = admitting[i], admitting[0]
	}
	first := admitting[0]
	res := Result{
		Allow:         true,
		Reason:        ReasonAllowed,
		Generation:    e.generation,
		Policy:        first.policy.Key,
		EndpointIndex: first.at,
		Endpoint:      first.get(),
		Line:          first.get().Line,
		AllowedIPs:    first.get().AllowedIPs,
		HostService:   e.services[hostPort{in.Host, in.Port}],
	}
	for _, other := range admitting[1:] {
		for _, prefix := range other.get().AllowedIPs {
			if !slices.Contains(res.AllowedIPs, prefix) {
				res.AllowedIPs = append(slices.Clip(res.AllowedIPs), prefix)
			}
		}
	}
	return res
}

// denied makes the result of a denial.
func (e *Engine) denied(in Input, reason string) Result {
	res := Result{Reason: reason, Detail: detail(in, reason), Generation: e.generation}
	switch reason {
	case ReasonHost, ReasonPort, ReasonBinary:
		if in.Exe != "" {
			res.Missing = &RuleMissing{Host: in.Host, Port: in.Port, Binary: in.Exe}
		}
	}
	return res
}

func detail(in Input, reason string) string {
	switch reason {
	case ReasonHost:
		return fmt.Sprintf("no rule for host %q", in.Host)
	case ReasonPort:
		return fmt.Sprintf("no rule for host %q has port %d", in.Host, in.Port)
	case ReasonBinary:
		if in.Exe == "" {
			return fmt.Sprintf("the program that asks for %q port %d is not known", in.Host, in.Port)
		}
		return fmt.Sprintf("no rule for host %q and port %d names %q or a program above it", in.Host, in.Port, in.Exe)
	case ReasonTimeout:
		return "the policy was not evaluated in time"
	default:
		return "the policy gave no decision"
	}
}

func (p endpoint) get() *policy.Endpoint { return &p.policy.Endpoints[p.at] }

// reads says whether what passes an endpoint is inspected.
func (p endpoint) reads() bool { return p.get().Inspected() }
