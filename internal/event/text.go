package event

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what comes from outside, in bytes. Longer text is cut on a
// character's boundary and ends in an ellipsis.
const (
	maxHost   = 255
	maxPath   = 1024
	maxCmd    = 1024
	maxText   = 512
	maxToken  = 64
	maxInLine = 120 // of one field in the line for people
	maxParent = 32  // ancestors

	maxOperations = 4096 // all of a request
)

const ellipsis = "…"

// clip bounds s to n bytes, cutting between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	cut := n - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}

// Escape makes s safe to show on a terminal: whatever is not a printable
// character or a space becomes a visible escape in Go's notation, and a
// backslash is doubled, so that no two texts look the same.
func Escape(s string) string {
	if isPlain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x` + hex(uint32(s[i]), 2))
		case r == '\\':
			b.WriteString(`\\`)
		case strconv.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			b.WriteString(`\x` + hex(uint32(r), 2))
		case r <= 0xffff:
			b.WriteString(`\u` + hex(uint32(r), 4))
		default:
			b.WriteString(`\U` + hex(uint32(r), 8))
		}
		i += size
	}
	return b.String()
}

func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '\\' {
			return false
		}
	}
	return true
}

// field escapes s for one place of the line and bounds what is seen of it.
func field(s string) string { return clip(Escape(clip(s, maxInLine)), 2*maxInLine) }

func hex(v uint32, width int) string {
	s := strconv.FormatUint(uint64(v), 16)
	return strings.Repeat("0", max(0, width-len(s))) + s
}

// appendPrintable appends the JSON text src to dst with every character that
// is not printable as a \u escape. JSON keeps control bytes out of strings,
// but not DEL, C1 controls or direction marks, and those reach a terminal when
// somebody prints the file.
func appendPrintable(dst, src []byte) []byte {
	for i := 0; i < len(src); {
		if n := plain(src[i:]); n > 0 {
			dst = append(dst, src[i:i+n]...)
			i += n
			continue
		}
		r, size := utf8.DecodeRune(src[i:])
		switch {
		case strconv.IsPrint(r):
			dst = append(dst, src[i:i+size]...)
		case r > 0xffff:
			r -= 0x10000
			dst = append(dst, `\u`+hex(0xd800+uint32(r>>10), 4)+`\u`+hex(0xdc00+uint32(r&0x3ff), 4)...)
		default:
			dst = append(dst, `\u`+hex(uint32(r), 4)...)
		}
		i += size
	}
	return dst
}

// plain is how many bytes at the front of b are printable ASCII, or below it.
func plain(b []byte) int {
	for i, c := range b {
		if c >= 0x7f {
			return i
		}
	}
	return len(b)
}
