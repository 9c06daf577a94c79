package secret

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// Alphabet is the set of bytes of which the random part of a placeholder is made.
type Alphabet string

// The alphabets that keys of well-known services use.
const (
	Base32  Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	Base62  Alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	Base64  Alphabet = Base62 + "+/"
	URLSafe Alphabet = Base62 + "-_"
)

// minBits is the least entropy of a placeholder: none is guessed, and no text
// holds one by chance.
const minBits = 75

// Shape is how the placeholders of one kind of key look, so that the checks of a
// client library accept them.
type Shape struct {
	Prefix   string
	Alphabet Alphabet
	Random   int // number of random bytes between Prefix and Suffix
	Suffix   string
}

// New makes a placeholder of randomness, which it takes from r alone: nothing of
// it can be told from another one.
func (s Shape) New(r io.Reader) (string, error) {
	if s.bits() < minBits {
		return "", fmt.Errorf("bug: secret: shape %q has %.0f bits, needs %d", s.Prefix, s.bits(), minBits)
	}
	out := make([]byte, 0, len(s.Prefix)+s.Random+len(s.Suffix))
	out = append(out, s.Prefix...)
	// Bytes above the last whole multiple are thrown away: each letter is as
	// likely as the next.
	most := 256 - 256%len(s.Alphabet)
	var b [64]byte
	for left := s.Random; left > 0; {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", fmt.Errorf("secret: randomness: %w", err)
		}
		for _, c := range b {
			if int(c) < most && left > 0 {
				out = append(out, s.Alphabet[int(c)%len(s.Alphabet)])
				left--
			}
		}
	}
	return string(append(out, s.Suffix...)), nil
}

func (s Shape) bits() float64 {
	if s.Random <= 0 || len(s.Alphabet) < 2 {
		return 0
	}
	return float64(s.Random) * math.Log2(float64(len(s.Alphabet)))
}

// Matches tells whether text could be a placeholder of this shape.
func (s Shape) Matches(text string) bool {
	middle, ok := strings.CutPrefix(text, s.Prefix)
	if !ok {
		return false
	}
	if middle, ok = strings.CutSuffix(middle, s.Suffix); !ok || len(middle) != s.Random {
		return false
	}
	return strings.Trim(middle, string(s.Alphabet)) == ""
}

// Placeholders are the ones of a session, by their index in what made them. The
// zero value holds none.
type Placeholders []string

// Find gives the index and place of the first placeholder in text; -1 if there
// is none.
func (p Placeholders) Find(text string) (which, at int) {
	which, at = -1, -1
	for i, one := range p {
		if len(one) > len(text) {
			continue
		}
		if j := strings.Index(text, one); j >= 0 && (at < 0 || j < at) {
			which, at = i, j
		}
	}
	return which, at
}

// Is gives the index of the placeholder that text is; -1 if it is none.
func (p Placeholders) Is(text string) int {
	for i, one := range p {
		if one == text {
			return i
		}
	}
	return -1
}
