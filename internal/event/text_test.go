package event

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEscape(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "git", "git"},
		{"letters", "grün →", "grün →"},
		{"color", "\x1b[31mred", `\x1b[31mred`},
		{"line_break", "a\r\nb", `a\x0d\x0ab`},
		{"tab_and_nul", "\t\x00", `\x09\x00`},
		{"delete", "\x7f", `\x7f`},
		{"c1_control", "\u009b31m", `\u009b31m`},
		{"direction", "a\u202eb", `a\u202eb`},
		{"zero_width", "a\u200bb", `a\u200bb`},
		{"odd_space", "a\u00a0b", `a\u00a0b`},
		{"tag", "\U000e0041", `\U000e0041`},
		{"invalid", "\xff\xfe", `\xff\xfe`},
		{"truncated_rune", "a\xe2\x82", `a\xe2\x82`},
		{"backslash", `a\x1b`, `a\\x1b`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Escape(tt.in); got != tt.want {
				t.Errorf("Escape(%q) = %s, want %s", tt.in, got, tt.want)
			}
		})
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{
		{"short", 5, "short"},
		{"longer", 5, "lo…"},
		{"ääää", 7, "ää…"},
		{"ääää", 6, "ä…"},
	} {
		if got := clip(tt.in, tt.n); got != tt.want || len(got) > tt.n {
			t.Errorf("clip(%q, %d) = %q, want %q", tt.in, tt.n, got, tt.want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"git", "\x1b]0;x\x07", "\xff\u202e\\", "\u009b", "a\U0010ffffb", `\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Escape(s)
		for _, r := range got {
			if !strconv.IsPrint(r) {
				t.Fatalf("Escape(%q) = %q holds %U", s, got, r)
			}
		}
		// Nothing is lost: Go's own reader gives the text back.
		back, err := strconv.Unquote(`"` + strings.ReplaceAll(got, `"`, `\"`) + `"`)
		if err != nil || back != s {
			t.Fatalf("Escape(%q) = %q reads back as %q, %v", s, got, back, err)
		}
		if got := field(s); len(got) > 2*maxInLine || !utf8.ValidString(got) {
			t.Fatalf("field(%q) = %q", s, got)
		}
	})
}

// FuzzEvent gives hostile text to every place of an event that takes some.
func FuzzEvent(f *testing.F) {
	f.Add("evil.example", "/p", "q=secret", "\x1b[2J")
	f.Add("\u202e", "\x9b", "&&&=", "\xff")
	f.Fuzz(func(t *testing.T, host, path, query, text string) {
		who := Who{PID: 1, Exe: path, SHA256: text, Args: []string{text, host, query}, Ancestors: []Binary{{path, text}}}
		to := Where{Host: host, Port: 1, Proto: text}
		v := Verdict{Reason: text, Detail: text, Policy: path, Rule: host, Line: 1}
		s := testSession()
		for _, e := range []Event{
			Connection(Refuse, who, to, v),
			Connection(Refuse, who, Where{Path: path}, v),
			Request(HTTP{text, text, path, query, text, text, 200, []Operation{{text, text, []string{text}, text, text, text}}}, who, to, v),
			Finding(Found{text, text, text, text, High, &who, &to}),
			Configuration(Configured{Policy: path, Err: text, Hash: text}),
			Lifecycle(Start, text, text),
			Launched(who, who),
		} {
			e = s.Stamp(e)
			mustBePrintable(t, "line", e.Line(), 1500)
			js, err := e.AppendJSON(nil)
			if err != nil || !json.Valid(js) {
				t.Fatalf("AppendJSON = %s, %v", js, err)
			}
			mustBePrintable(t, "JSON", string(js), 64<<10)
		}
	})
}

func mustBePrintable(t *testing.T, what, s string, limit int) {
	t.Helper()
	for _, r := range s {
		if !strconv.IsPrint(r) {
			t.Fatalf("%s %q holds %U", what, s, r)
		}
	}
	if len(s) > limit {
		t.Fatalf("%s of %d bytes, want at most %d", what, len(s), limit)
	}
}
