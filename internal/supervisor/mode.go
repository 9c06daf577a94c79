package supervisor

import (
	"errors"
	"strings"
	"time"

	"sallyport/internal/confine"
	"sallyport/internal/policy"
)

// networks is what each mode means for the agent's network.
var networks = map[policy.Mode]confine.Network{
	policy.Platform:  confine.HostNetwork,
	policy.Namespace: confine.VethNetwork,
	policy.UserNS:    confine.UserNetwork,
}

// chooseMode takes the mode of the flag or of the policy, which must agree.
// Where neither names one, isolate finds it by doing.
func (s *sandbox) chooseMode() error {
	flag, in := s.o.Mode, s.policy.NetworkEnforcement
	if !agree(flag, in) {
		return refused("leave --mode out, or change network_enforcement in the policy",
			"--mode %s disagrees with the policy, which says network_enforcement: %s", flag, in)
	}
	if s.mode = flag; flag == policy.ModeUnset {
		s.mode = in
	}
	return nil
}

// agree says whether a flag and a policy can both be meant. A user namespace is
// how somebody without privilege gets namespace mode.
func agree(flag, in policy.Mode) bool {
	return flag == policy.ModeUnset || in == policy.ModeUnset || flag == in ||
		flag == policy.UserNS && in == policy.Namespace
}

// Choice is the mode of a start that nobody named one for, and why it is that one.
type Choice struct {
	Mode policy.Mode
	Why  string
	Hint string // what would make it a stricter one; may be empty
}

// String is the one line that a start prints.
func (c Choice) String() string {
	text := c.Mode.String() + " mode: " + c.Why
	if c.Hint != "" {
		text += "; " + c.Hint
	}
	return text
}

// Automatic tells which mode a start takes that neither policy nor flag names
// one for. It is found out by doing: with the privilege for it, the network of
// namespace mode is made as for a sandbox, and taken down again.
func Automatic() Choice {
	s := &sandbox{}
	defer s.close()
	c := s.strictest()
	s.removeNetwork()
	return c
}

// impatience is the patience of a start that has another mode to fall back to:
// every start on a host whose firewall drops pays it.
const impatience = 2 * time.Second

// strictest makes the agent's network if this host can hold namespace mode, and
// says why not if it cannot. User namespaces are not among the choices (ADR 31).
func (s *sandbox) strictest() Choice {
	err := s.makeNetwork(impatience)
	if err == nil {
		return Choice{Mode: policy.Namespace, Why: "it is the strictest that this host can hold"}
	}
	s.removeNetwork()
	c := Choice{Mode: policy.Platform, Why: err.Error()}
	var e *ExitError
	if errors.As(err, &e) {
		c.Hint = strings.TrimSuffix(e.Hint(), orPlatform)
	}
	return c
}
