package supervisor

import (
	"net/netip"
	"os"

	"sallyport/internal/confine"
	"sallyport/internal/event"
	"sallyport/internal/policy"
)

// Features are what this build can enforce of the policy language.
func Features() policy.Features {
	return policy.Features{Inspect: true, WebSocket: true, Credentials: true, Middleware: true, PinRefresh: true, Direct: true, Publish: true}
}

// Options say what to run and how. The zero value of each field is its
// strictest; Command is the only one that must be given.
type Options struct {
	Command  []string
	Policy   *policy.Policy // nil: policy.Default()
	Document []byte         // that Policy was read from, for those who ask what is in force

	// PolicyFile is where Policy was read from. It is followed while the sandbox
	// runs, unless the agent can change it. Empty: it is not.
	PolicyFile string

	// Control is the directory of control sockets: one is made below it, in a
	// directory of the agent's user. Empty: none.
	Control string

	Mode    policy.Mode // what the caller asked for; unset: the policy's, else the strictest that holds
	Workdir string      // absolute, or empty for the current directory
	Env     []string    // NAME=VALUE, added to what the agent inherits
	Base    []string    // the caller's environment, from which a few variables are passed on

	RunConfig *policy.RunConfig                             // providers and inference; nil: neither
	Keyring   func(service, account string) ([]byte, error) // reads the operating system's keyring; nil: there is none

	Resolve       map[string][]netip.Addr // names that are not looked up; their addresses are judged all the same
	UpstreamCA    string                  // PEM file of further roots for servers
	UpstreamCerts []string                // client certificates for servers, each HOST=CERT[,KEY], files in PEM
	ProxyPort     int                     // 0: 3128 where free, else any
	Events        string                  // file for OCSF events, JSON lines; empty: none
	Version       string

	Stdin, Stdout, Stderr *os.File // the agent's

	Note  func(string)      // told what a person should know, a sentence each; may be nil
	Event func(event.Event) // told of every event, stamped; may be nil

	// OnlyTrouble says that Event makes nothing of requests that a rule has
	// allowed; without a file for events they are not made then.
	OnlyTrouble bool

	// Started is told when the agent runs, with a func that tells whether the
	// sandbox is still held: what a liveness probe asks. May be nil.
	Started func(held func() error)

	// Readable are further paths that the agent may read and execute.
	Readable []string

	// Off leaves walls out. Only a test may set it: what it starts is not a sandbox.
	Off confine.Walls
}
