package supervisor

import (
	"sallyport/internal/confine"
	"sallyport/internal/policy"
)

// networks is what each mode means for the agent's network.
var networks = map[policy.Mode]confine.Network{
	policy.Platform:  confine.HostNetwork,
	policy.Namespace: confine.VethNetwork,
	policy.UserNS:    confine.UserNetwork,
}

// chooseMode takes the mode of the flag or of the policy, which must agree, or
// platform.
func (s *sandbox) chooseMode() error {
	flag, in := s.o.Mode, s.policy.NetworkEnforcement
	if !agree(flag, in) {
		return refused("leave --mode out, or change network_enforcement in the policy",
			"--mode %s disagrees with the policy, which says network_enforcement: %s", flag, in)
	}
	switch {
	case flag != policy.ModeUnset:
		s.mode = flag
	case in != policy.ModeUnset:
		s.mode = in
	default:
		s.mode = policy.Platform
		s.note("platform mode; --mode namespace and --mode userns put the agent into a network namespace, too")
	}
	return nil
}

// agree says whether a flag and a policy can both be meant. A user namespace is
// how somebody without privilege gets namespace mode.
func agree(flag, in policy.Mode) bool {
	return flag == policy.ModeUnset || in == policy.ModeUnset || flag == in ||
		flag == policy.UserNS && in == policy.Namespace
}
