package secret

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

func TestShape(t *testing.T) {
	shapes := []Shape{
		{"AKIA", Base32, 16, ""}, {"ghp_", Base62, 36, ""}, {"sk-ant-api03-", URLSafe, 93, "AA"}, {"", Base64, 40, ""},
	}
	for _, s := range shapes {
		seen := map[string]bool{}
		for range 200 {
			p, err := s.New(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if !s.Matches(p) || len(p) != len(s.Prefix)+s.Random+len(s.Suffix) {
				t.Fatalf("%q does not have the shape %+v", p, s)
			}
			middle := p[len(s.Prefix) : len(p)-len(s.Suffix)]
			if seen[middle[:8]] {
				t.Errorf("%q shares its first random bytes with another placeholder", p)
			}
			seen[middle[:8]] = true
			if s.Matches(p+"x") || s.Matches(p[1:]) || s.Matches(p[:len(p)-1]) || s.Matches("") {
				t.Errorf("a neighbour of %q has its shape", p)
			}
		}
	}
}

// TestShapeIsUniform feeds every byte value once: each letter of the alphabet
// must come equally often.
func TestShapeIsUniform(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	s := Shape{"", Base62, 248, ""} // 4 × 62
	p, err := s.New(bytes.NewReader(all))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Base62 {
		if n := strings.Count(p, string(c)); n != 4 {
			t.Errorf("%q comes %d times, want 4", c, n)
		}
	}
}

func TestShapeErrors(t *testing.T) {
	if _, err := (Shape{"x", Base32, 14, ""}).New(rand.Reader); err == nil {
		t.Error("a guessable shape was accepted")
	}
	broken := errors.New("no entropy")
	if _, err := (Shape{"x", Base62, 40, ""}).New(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("New = %v, want %v", err, broken)
	}
}

func TestPlaceholders(t *testing.T) {
	p := Placeholders{"AKIAAAAABBBBCCCCDDDD", "ghp_0123456789"}
	for _, c := range []struct {
		text      string
		which, at int
		is        int
	}{
		{"", -1, -1, -1},
		{"nothing", -1, -1, -1},
		{"ghp_0123456789", 1, 0, 1},
		{"Bearer ghp_0123456789", 1, 7, -1},
		{"xghp_0123456789AKIAAAAABBBBCCCCDDDD", 1, 1, -1},
		{"ghp_012345678", -1, -1, -1},
		{"GHP_0123456789", -1, -1, -1},
	} {
		if which, at := p.Find(c.text); which != c.which || at != c.at {
			t.Errorf("Find(%q) = %d, %d, want %d, %d", c.text, which, at, c.which, c.at)
		}
		if is := p.Is(c.text); is != c.is {
			t.Errorf("Is(%q) = %d, want %d", c.text, is, c.is)
		}
	}
	if which, _ := Placeholders(nil).Find("x"); which != -1 {
		t.Error("nothing was found in nothing")
	}
}
