package policy

import "net/netip"

// Mode is the network enforcement mode, the contract's NetworkEnforcementMode.
type Mode uint8

// The modes. ModeUnset takes the strictest one that the host can hold. UserNS is
// Namespace for a user without privilege, by a user namespace; a policy cannot
// ask for it, a command line can.
const (
	ModeUnset Mode = iota
	Platform
	Namespace
	UserNS
)

// String is the mode's word; empty for ModeUnset.
func (m Mode) String() string { return [...]string{"", "platform", "namespace", "userns"}[m] }

// Compatibility says what becomes of a Landlock right that the host lacks.
type Compatibility uint8

// HardRequirement refuses to start; BestEffort may lose second walls, with a finding.
const (
	HardRequirement Compatibility = iota
	BestEffort
)

// Policy is one parsed and validated document.
type Policy struct {
	Version            int
	NetworkEnforcement Mode
	Filesystem         Filesystem
	Landlock           Landlock
	Process            Process
	Network            []NetworkPolicy // ordered by key
	HostServices       []HostService
	Middlewares        []Middleware
	NetworkCapture     bool
	Sockets            Sockets
	Source             string // the document's name, for messages
}

// Filesystem lists what the agent may read and write.
type Filesystem struct {
	IncludeWorkdir bool
	ReadOnly       []string
	ReadWrite      []string
}

// Landlock is the section of the same name.
type Landlock struct{ Compatibility Compatibility }

// Process says who the agent runs as. Empty: the caller.
type Process struct{ RunAsUser, RunAsGroup string }

// HostService opens one loopback service of the host to the agent.
type HostService struct {
	Host string
	Port uint16
	To   netip.AddrPort
	Line int
}

// Sockets are grants beyond the proxy.
type Sockets struct {
	Unix    []string    // pathname sockets of the host
	Bind    []PortRange // loopback ports to listen on, beyond ephemeral ones
	Publish []uint16    // of these, reachable from the host
}

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }
