package address

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"sallyport/internal/policy/match"
)

// maxAuthority bounds what is looked at: a name of 253 characters, a trailing
// dot, a colon and a port, with room for a name that IDN makes shorter.
const maxAuthority = 1024

// ErrAuthority is in the chain of every error of ParseAuthority and ParsePort.
var ErrAuthority = errors.New("not a valid authority")

// ParseAuthority reads "host:port", "host", "[v6]:port" or "[v6]". The host
// comes back in the one form that policies are matched in: a lower-case ASCII
// name without a trailing dot, or an address as netip prints it, an IPv4-mapped
// one as IPv4. Without a port it is defaultPort; with defaultPort 0 a port is
// required. Userinfo, zone ids, percent signs, control bytes, IPv4 in another
// form than four decimals, and ports with a sign or a leading zero are errors.
func ParseAuthority(s string, defaultPort uint16) (host string, port uint16, err error) {
	if len(s) > maxAuthority {
		return "", 0, fmt.Errorf("%w: %d bytes, expected at most %d", ErrAuthority, len(s), maxAuthority)
	}
	rawHost, rawPort, hasPort := s, "", false
	literal := strings.HasPrefix(s, "[")
	if literal {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", 0, fmt.Errorf("%w: %q: bracket is not closed", ErrAuthority, s)
		}
		rawHost, rawPort = s[1:end], s[end+1:]
		if rawPort != "" {
			if rawPort[0] != ':' {
				return "", 0, fmt.Errorf("%w: %q: expected a colon after the bracket", ErrAuthority, s)
			}
			rawPort, hasPort = rawPort[1:], true
		}
	} else {
		rawHost, rawPort, hasPort = strings.Cut(s, ":")
	}
	switch {
	case hasPort:
		if port, err = ParsePort(rawPort); err != nil {
			return "", 0, err
		}
	case defaultPort == 0:
		return "", 0, fmt.Errorf("%w: %q: expected host:port", ErrAuthority, s)
	default:
		port = defaultPort
	}
	if literal {
		host, err = canonicalV6(rawHost)
	} else {
		host, err = canonicalName(rawHost)
	}
	return host, port, err
}

// ParsePort reads a decimal port from 1 to 65535 without sign or leading zero.
func ParsePort(s string) (uint16, error) {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 6553 {
			return 0, fmt.Errorf("%w: port %q: expected a number from 1 to 65535", ErrAuthority, s)
		}
		n = n*10 + int(c-'0')
	}
	if n < 1 || n > 65535 || s[0] == '0' {
		return 0, fmt.Errorf("%w: port %q: expected a number from 1 to 65535", ErrAuthority, s)
	}
	return uint16(n), nil
}

func canonicalV6(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Zone() != "" || strings.Contains(s, "%") {
		return "", fmt.Errorf("%w: %q: expected an IPv6 address without a zone in the brackets", ErrAuthority, s)
	}
	return a.Unmap().String(), nil
}

func canonicalName(s string) (string, error) {
	host, err := match.CanonicalHost(s)
	if err == nil && host != s {
		// Some bytes that are no text map to a name that is none; a form is
		// canonical only if it is its own.
		if again, err := match.CanonicalHost(host); err != nil || again != host {
			return "", fmt.Errorf("%w: %q is not a host", ErrAuthority, s)
		}
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrAuthority, err)
	}
	return host, nil
}
