package policy

import (
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Features are what a build can enforce of the language.
type Features struct {
	Inspect     bool // protocols that are read
	WebSocket   bool // messages of websockets
	Credentials bool
	Middleware  bool
	PinRefresh  bool
	Direct      bool // relay: direct
	Publish     bool
}

// Unenforceable lists what of a policy a build cannot enforce. Such a policy is
// refused: a rule that is not enforced must not look as if it were.
func Unenforceable(p *Policy, have Features) Errors {
	var errs Errors
	say := func(line int, msg string) {
		errs = append(errs, &PositionError{File: p.Source, Line: line, Col: 1, Msg: msg})
	}
	for _, np := range p.Network {
		for _, e := range np.Endpoints {
			if e.Inspected() && !have.Inspect {
				say(e.Line, "protocol: "+string(e.Protocol)+" cannot be enforced by this version, which does not read inside connections yet; leave protocol and its rules out to allow the connection as a whole")
			}
			if e.Protocol == WebSocket && have.Inspect && !have.WebSocket {
				say(e.Line, "protocol: websocket cannot be enforced by this version, which does not read messages yet")
			}
			if e.L7.CredentialProvider != "" && !have.Credentials {
				say(e.Line, "credential_binding cannot be enforced by this version: credentials are not injected yet")
			}
			if e.PinRefresh && !have.PinRefresh {
				say(e.Line, "pin: refresh cannot be enforced by this version; leave it out to freeze the addresses for the session")
			}
			if e.RelayDirect && !have.Direct {
				say(e.Line, "relay: direct cannot be enforced by this version; leave it out to relay through the proxy")
			}
		}
	}
	for _, m := range p.Middlewares {
		if !have.Middleware {
			say(m.Line, "network_middlewares cannot be enforced by this version")
		}
	}
	if len(p.Sockets.Publish) > 0 && !have.Publish {
		say(0, "sockets.publish cannot be enforced by this version")
	}
	return errs
}

// DefaultSource is the name of the built-in policy.
const DefaultSource = "built-in default"

// Default is the policy of a run without one: the working directory and
// temporary files can be written, the system can be read, and nothing can be
// reached. Paths that a host does not have are for the caller to drop.
func Default() *Policy {
	return &Policy{
		Version: 1, NetworkCapture: true, Source: DefaultSource,
		Filesystem: Filesystem{
			IncludeWorkdir: true,
			ReadOnly: strings.Fields("/usr /bin /sbin /lib /lib32 /lib64 /libx32 /opt /nix/store /etc /proc " +
				"/sys/devices/system/cpu /sys/fs/cgroup /run/systemd/resolve /var/lib/dpkg /dev/urandom /dev/random /dev/zero /dev/full"),
			ReadWrite: strings.Fields("/tmp /var/tmp /dev/null /dev/tty /dev/ptmx /dev/pts"),
		},
	}
}
