package secret

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

const canary = "canary-3f8a91c2d7"

func value(t *testing.T, s string) Value {
	t.Helper()
	v, err := New([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestNeverPrinted holds a Value up to everything that prints: by itself, by
// pointer, in exported and unexported fields, in maps, slices and errors.
func TestNeverPrinted(t *testing.T) {
	v := value(t, canary)
	type inner struct {
		Shown  Value
		hidden Value
		ptr    *Value
		any    any
	}
	things := map[string]any{
		"value": v, "pointer": &v, "struct": inner{v, v, &v, v}, "struct pointer": &inner{v, v, &v, v},
		"slice": []Value{v}, "map": map[string]Value{"k": v}, "array": [1]inner{{v, v, &v, v}},
		"error": fmt.Errorf("wrapped: %v %w", v, errors.New("x")),
	}
	verbs := "vTtbcdoOxXqUeEfFgGsp"
	for name, thing := range things {
		var out bytes.Buffer
		for _, verb := range verbs {
			for _, flags := range []string{"", "+", "#", " ", "-20", "020", ".3"} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", thing)
			}
		}
		fmt.Fprint(&out, thing)
		fmt.Fprintln(&out, thing)
		if j, err := json.Marshal(thing); err == nil {
			out.Write(j)
		}
		if x, err := xml.Marshal(thing); err == nil {
			out.Write(x)
		}
		gob.NewEncoder(&out).Encode(thing)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "a", thing)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "a", thing, slog.Any("b", v))
		hexed := fmt.Sprintf("%x", canary)
		decimal := strings.Trim(fmt.Sprint([]byte(canary)), "[]")
		for _, form := range []string{canary, hexed, strings.ToUpper(hexed), decimal} {
			if strings.Contains(out.String(), form) {
				t.Errorf("%s: printed as %.40q", name, form)
			}
		}
	}
	// Positive control: the same search finds a secret that is a plain string.
	if !strings.Contains(fmt.Sprintf("%+v", struct{ s string }{canary}), canary) {
		t.Fatal("the search finds nothing")
	}
	for got, want := range map[string]string{fmt.Sprint(v): Redacted, fmt.Sprintf("%#v", v): Redacted, fmt.Sprintf("%x", v): Redacted, v.String(): Redacted} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     error
	}{
		{"plain", canary, nil},
		{"space inside", "correct horse battery", nil},
		{"not ASCII", "pässwörter", nil},
		{"empty", "", ErrShort},
		{"short", "1234567", ErrShort},
		{"longest", strings.Repeat("x", MaxSize), nil},
		{"too long", strings.Repeat("x", MaxSize+1), ErrLong},
		{"CR", "abcdefgh\rX: y", ErrControl},
		{"LF", "abcdefgh\nX: y", ErrControl},
		{"NUL", "abcdefgh\x00", ErrControl},
		{"tab", "abcdefgh\tz", ErrControl},
		{"DEL", "abcdefgh\x7f", ErrControl},
	} {
		b := []byte(c.in)
		v, err := New(b)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: New = %v, want %v", c.name, err, c.want)
		}
		if err == nil && v.Reveal() != c.in {
			t.Errorf("%s: Reveal = %q, want %q", c.name, v.Reveal(), c.in)
		}
		if err != nil && bytes.Trim(b, "\x00") != nil && len(bytes.Trim(b, "\x00")) != 0 {
			t.Errorf("%s: refused bytes were left: %q", c.name, b)
		}
	}
}

func TestWipe(t *testing.T) {
	b := []byte(canary)
	v, err := New(b)
	if err != nil {
		t.Fatal(err)
	}
	dup := v
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			dup.Use(func(b []byte) {
				if string(b) != canary {
					t.Errorf("seen %q half wiped", b)
				}
			})
		})
	}
	wg.Wait()
	v.Wipe()
	if !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("left %q", b)
	}
	if dup.Use(func([]byte) { t.Error("lent after Wipe") }) || dup.Reveal() != "" {
		t.Error("a copy outlives Wipe")
	}
	Value{}.Wipe()
	if (Value{}).Use(func([]byte) {}) {
		t.Error("the zero Value holds something")
	}
}
