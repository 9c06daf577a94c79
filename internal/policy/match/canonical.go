package match

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// profile maps a name to its A-label form as a resolver would look it up
// (UTS 46, non-transitional), and refuses what no host name may hold.
var profile = idna.New(
	idna.MapForLookup(),
	idna.Transitional(false),
	idna.StrictDomainName(true),
	idna.BidiRule(),
)

// maxHost is the longest host name, RFC 1035.
const maxHost = 253

// ErrHost is what every refused host wraps.
var ErrHost = errors.New("not a host")

// CanonicalHost gives the one form of a host in which it is judged: a name in
// lower case and A-labels without a trailing dot, or an address as net/netip
// prints it, v4-mapped ones as IPv4. Whatever could be read as two different
// hosts is refused: brackets, user information, zones, escapes, control
// characters, and the decimal, octal, hexadecimal and short forms of IPv4 that
// inet_aton takes.
func CanonicalHost(s string) (string, error) {
	if s == "" || len(s) > 4*maxHost {
		return "", fmt.Errorf("%w: a host is 1 to %d characters long", ErrHost, maxHost)
	}
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%w: %q is not UTF-8", ErrHost, s)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return "", fmt.Errorf("%w: %q names a zone", ErrHost, s)
		}
		return a.Unmap().String(), nil
	}
	if i := strings.IndexAny(s, "[]@%:/\\?#*"); i >= 0 {
		return "", fmt.Errorf("%w: %q holds %q", ErrHost, s, s[i])
	}
	name := lower(s)
	if !plain(name) {
		var err error
		if name, err = profile.ToASCII(s); err != nil {
			return "", fmt.Errorf("%w: %q: %v", ErrHost, s, err)
		}
		name = lower(name)
	}
	name = strings.TrimSuffix(name, ".")
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("%w: %q: %v", ErrHost, s, err)
	}
	return name, nil
}

// lower is ASCII lower case; it allocates only when something changes.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// plain says whether a name is made of the letters that need no mapping.
func plain(s string) bool {
	for i := range len(s) {
		if !nameByte(s[i]) && s[i] != '.' {
			return false
		}
	}
	return !strings.Contains(s, "xn--")
}

// nameByte takes underscores too: service names in real zones have them.
func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func checkName(name string) error {
	if name == "" || len(name) > maxHost {
		return fmt.Errorf("expected 1 to %d characters", maxHost)
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return errors.New("expected labels of 1 to 63 characters")
		}
		for i := range len(label) {
			if !nameByte(label[i]) {
				return fmt.Errorf("%q is not part of a host name", label[i])
			}
		}
		last = label
	}
	if numeric(last) {
		return errors.New("a number at the end is an address in a form that programs read differently")
	}
	return nil
}

// numeric finds a last label that inet_aton, and so some resolver, takes for a
// number: decimal, octal or hexadecimal (WHATWG URL, "ends in a number").
func numeric(label string) bool {
	if hex, is := strings.CutPrefix(label, "0x"); is {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// IsAddress says whether a canonical host is an IP address.
func IsAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// HostPattern gives the canonical form of a pattern: an exact host, *.x.y,
// **.x.y, or a first label that holds stars. A pattern for all of a top-level
// domain is refused.
func HostPattern(s string) (string, error) {
	if !strings.Contains(s, "*") {
		return CanonicalHost(s)
	}
	first, rest, found := strings.Cut(s, ".")
	switch {
	case !found || rest == "":
		return "", fmt.Errorf("%w: %q would match every host", ErrHost, s)
	case strings.Contains(rest, "*"):
		return "", fmt.Errorf("%w: %q: a star can stand in the first label only", ErrHost, s)
	case strings.Contains(first, "**") && first != "**":
		return "", fmt.Errorf("%w: %q: ** stands alone in its label", ErrHost, s)
	}
	tail, err := CanonicalHost(rest)
	if err != nil {
		return "", err
	}
	if !strings.Contains(tail, ".") {
		return "", fmt.Errorf("%w: %q: wildcard needs two labels behind it, or it takes in a whole top-level domain", ErrHost, s)
	}
	first = lower(first)
	for i := range len(first) {
		if !nameByte(first[i]) && first[i] != '*' {
			return "", fmt.Errorf("%w: %q holds %q", ErrHost, s, first[i])
		}
	}
	return first + "." + tail, nil
}
