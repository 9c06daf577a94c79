package http

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Target is the canonical target of a request.
type Target struct {
	Path  string              // canonical, begins with a slash; "*" for a request to the server itself
	Raw   string              // canonical query without its question mark
	Query map[string][]string // the same, decoded; nil if empty

	// EncodedSlash tells that a segment of Path holds an escaped slash or
	// backslash. Some servers take it for a separator, so it may be sent only
	// where a person has said so.
	EncodedSlash bool
}

// String is the target as it is sent.
func (t Target) String() string {
	if t.Raw == "" {
		return t.Path
	}
	return t.Path + "?" + t.Raw
}

// Bounds of a target. Everything beyond is an error.
const (
	maxTarget = 16 << 10 // bytes
	maxPairs  = 512      // of a query
)

// Error says why a target has no canonical form.
type Error string

func (e Error) Error() string { return string(e) }

func fail(format string, args ...any) error { return Error(fmt.Sprintf(format, args...)) }

// Parse reads a target in origin form, "/path?query", or "*".
//
// In the path, dot segments are resolved and empty segments dropped; escapes of
// unreserved characters are decoded, the others written in upper case. These are
// errors: a path above the root, a fragment, a control character or NUL, a
// backslash, parameters behind a semicolon, escapes that are incomplete or not
// UTF-8, and an escaped percent sign before two hexadecimal digits, which a
// server that decodes twice reads as another path.
//
// In the query, a plus becomes %20 and a semicolon %3B, so that no server takes
// either for something else; empty pairs are dropped; the order stays.
func Parse(target string) (Target, error) {
	var t Target
	if len(target) > maxTarget {
		return t, fail("URI of %d bytes, expected at most %d", len(target), maxTarget)
	}
	for i := range len(target) {
		switch c := target[i]; {
		case c <= ' ' || c >= 0x7f:
			return t, fail("URI: byte 0x%02x must be percent-encoded", c)
		case c == '#':
			return t, fail("URI with a fragment")
		}
	}
	if target == "*" {
		t.Path = target
		return t, nil
	}
	path, query, _ := strings.Cut(target, "?")
	if path == "" || path[0] != '/' {
		return t, fail("URI %.80q: expected a path that begins with a slash", target)
	}
	if err := t.readPath(path); err != nil {
		return t, err
	}
	return t, t.readQuery(query)
}

// plainPath tells that a path is canonical already, which nearly all are.
func plainPath(p string) bool {
	for i := range len(p) {
		switch c := p[i]; {
		case c == '/' && i+1 < len(p) && (p[i+1] == '/' || p[i+1] == '.'):
			return false
		case !pathBytes[c]:
			return false
		}
	}
	return true
}

func (t *Target) readPath(p string) error {
	if plainPath(p) {
		t.Path = p
		return nil
	}
	p, err := t.normalise(p)
	if err != nil {
		return err
	}
	t.Path, err = resolve(p)
	return err
}

// normalise gives every byte of a path its one spelling.
func (t *Target) normalise(p string) (string, error) {
	var b strings.Builder
	var decoded []byte // of the whole path, to be judged as UTF-8
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c != '%' {
			switch {
			case c == ';':
				return "", fail("URI path: parameters behind a semicolon")
			case c == '\\':
				return "", fail("URI path: backslash")
			case pathBytes[c] || c == '/':
				b.WriteByte(c)
			default:
				escape(&b, c)
			}
			decoded = append(decoded, c)
			continue
		}
		c, ok := unescape(p, i)
		if !ok {
			return "", fail("URI path: incomplete escape %.3q", p[i:])
		}
		i += 2
		switch {
		case c < ' ' || c == 0x7f:
			return "", fail("URI path: escaped control byte 0x%02x", c)
		case c == ';':
			return "", fail("URI path: escaped semicolon")
		case c == '%' && doubled(p[i+1:]):
			return "", fail("URI path: escaped twice")
		case c == '/' || c == '\\':
			t.EncodedSlash = true
		}
		if unreserved(c) {
			b.WriteByte(c)
		} else {
			escape(&b, c)
		}
		decoded = append(decoded, c)
	}
	if !utf8.Valid(decoded) {
		return "", fail("URI path: escapes are not UTF-8")
	}
	return b.String(), nil
}

// doubled tells whether what follows an escaped percent sign would make an
// escape of its own once decoded; the digits may be escaped themselves.
func doubled(rest string) bool {
	for range 2 {
		if rest == "" {
			return false
		}
		c, n := rest[0], 1
		if c == '%' {
			d, ok := unescape(rest, 0)
			if !ok {
				return false
			}
			if d == '%' {
				return true
			}
			c, n = d, 3
		}
		if _, ok := hex(c); !ok {
			return false
		}
		rest = rest[n:]
	}
	return true
}

// resolve takes dot segments and empty segments out, RFC 3986 section 5.2.4.
func resolve(p string) (string, error) {
	parts := strings.Split(p[1:], "/")
	kept := parts[:0]
	folder := false
	for _, s := range parts {
		if strings.IndexByte(s, '%') >= 0 && hiddenDots(s) {
			return "", fail("URI path: dot segment behind an escaped slash")
		}
		folder = s == "" || s == "." || s == ".."
		switch s {
		case "", ".":
		case "..":
			if len(kept) == 0 {
				return "", fail("URI path: above the root")
			}
			kept = kept[:len(kept)-1]
		default:
			kept = append(kept, s)
		}
	}
	out := "/" + strings.Join(kept, "/")
	if folder && len(kept) > 0 {
		out += "/"
	}
	return out, nil
}

// hiddenDots finds a dot segment between escaped slashes of one segment.
func hiddenDots(s string) bool {
	s = strings.ReplaceAll(s, "%5C", "%2F")
	if !strings.Contains(s, "%2F") {
		return false
	}
	for part := range strings.SplitSeq(s, "%2F") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

func (t *Target) readQuery(q string) error {
	if q == "" {
		return nil
	}
	var b strings.Builder
	pairs := 0
	for pair := range strings.SplitSeq(q, "&") {
		if pair == "" {
			continue
		}
		if pairs++; pairs > maxPairs {
			return fail("URI query: more than %d pairs", maxPairs)
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		name, value, hasValue := strings.Cut(pair, "=")
		key, err := component(&b, name)
		if err != nil {
			return err
		}
		text := ""
		if hasValue {
			b.WriteByte('=')
			if text, err = component(&b, value); err != nil {
				return err
			}
		}
		if t.Query == nil {
			t.Query = map[string][]string{}
		}
		t.Query[key] = append(t.Query[key], text)
	}
	t.Raw = b.String()
	return nil
}

// component writes a name or value of a query in its one spelling and gives it
// decoded.
func component(b *strings.Builder, s string) (string, error) {
	plain := true
	for i := range len(s) {
		plain = plain && queryBytes[s[i]]
	}
	if plain {
		b.WriteString(s)
		return s, nil
	}
	decoded := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c, literal := s[i], true
		switch c {
		case '%':
			var ok bool
			if c, ok = unescape(s, i); !ok {
				return "", fail("URI query: incomplete escape %.3q", s[i:])
			}
			i += 2
			literal = false
		case '+':
			c, literal = ' ', false
		}
		if c == 0 {
			return "", fail("URI query: NUL")
		}
		if literal && queryBytes[c] || unreserved(c) {
			b.WriteByte(c)
		} else {
			escape(b, c)
		}
		decoded = append(decoded, c)
	}
	return string(decoded), nil
}

func escape(b *strings.Builder, c byte) {
	const digits = "0123456789ABCDEF"
	b.Write([]byte{'%', digits[c>>4], digits[c&15]})
}

// unescape decodes the escape at s[i].
func unescape(s string, i int) (byte, bool) {
	if i+2 >= len(s) {
		return 0, false
	}
	high, ok1 := hex(s[i+1])
	low, ok2 := hex(s[i+2])
	return high<<4 | low, ok1 && ok2
}

func hex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// unreserved characters mean the same escaped or not, RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// pathBytes are those that stand for themselves in a path, the slash included:
// pchar of RFC 3986 without the semicolon.
var pathBytes = table("/!$&'()*+,=:@")

// queryBytes are those that stand for themselves in a name or value of a query:
// without the semicolon and the plus, which some servers read as something else.
var queryBytes = table("/?!$'()*,:@=")

func table(more string) (t [256]bool) {
	for c := range 256 {
		t[c] = unreserved(byte(c)) || strings.IndexByte(more, byte(c)) >= 0
	}
	return t
}
