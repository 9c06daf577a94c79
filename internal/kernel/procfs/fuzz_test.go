package procfs

import (
	"testing"
)

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 99 0\n"))
	f.Add([]byte("1 ()) R 0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStat(b)
		if err != nil && s != (Thread{}) {
			t.Errorf("parseStat(%q) = %+v with an error", b, s)
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(statusText))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseStatus(b); err != nil && (s.Tgid != 0 || s.Groups != nil) {
			t.Errorf("parseStatus(%q) = %+v with an error", b, s)
		}
	})
}

func FuzzParseSmall(f *testing.F) {
	f.Add([]byte("socket:[123]"))
	f.Add([]byte("1 2 3 "))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseSocket(b); err != nil && n != 0 {
			t.Errorf("parseSocket(%q) = %d with an error", b, n)
		}
		if l, err := parseChildren(b); err != nil && l != nil {
			t.Errorf("parseChildren(%q) = %v with an error", b, l)
		}
	})
}
