package http

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"/", "/"},
		{"*", "*"},
		{"/a/b", "/a/b"},
		{"/a/b/", "/a/b/"},
		{"/.well-known/x", "/.well-known/x"},
		{"/a/./b", "/a/b"},
		{"/a/../b", "/b"},
		{"/a/%2e%2e/b", "/b"},
		{"/a/%2E./b/.", "/b/"},
		{"/a/b/..", "/a/"},
		{"/a/..", "/"},
		{"//evil.example/x", "/evil.example/x"},
		{"/a//b///c", "/a/b/c"},
		{"/%61%62%7e", "/ab~"},
		{"/caf%c3%a9", "/caf%C3%A9"},
		{"/a%20b", "/a%20b"},
		{"/100%25", "/100%25"},
		{"/100%25/2e", "/100%25/2e"},
		{"/a%2fb", "/a%2Fb"},
		{"/a%5cb", "/a%5Cb"},
		{"/a|b\"<>^`{}", "/a%7Cb%22%3C%3E%5E%60%7B%7D"},
		{"/a?", "/a"},
		{"/a?x=1&&y=2&", "/a?x=1&y=2"},
		{"/a?x", "/a?x"},
		{"/a?x=a+b;c", "/a?x=a%20b%3Bc"},
		{"/a?u=https%3a%2f%2Fb%2f%253F", "/a?u=https%3A%2F%2Fb%2F%253F"},
		{"/a?x=%41%2B", "/a?x=A%2B"},
		{"/a?[]=\"", "/a?%5B%5D=%22"},
		{"/?/../x", "/?/../x"},
		{"/" + strings.Repeat("a", maxTarget-1), "/" + strings.Repeat("a", maxTarget-1)},
		{"/?" + strings.Repeat("a&", maxPairs-1) + "a", "/?" + strings.Repeat("a&", maxPairs-1) + "a"},
	} {
		got, err := Parse(c.in)
		if err != nil || got.String() != c.want {
			t.Errorf("Parse(%q) = %q, %v, want %q", c.in, got.String(), err, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "a", "http://h/", "/a#b", "/a b", "/a\x00", "/caf\xc3\xa9", "/a%", "/a%2", "/a%zz",
		"/%00", "/%0d%0a", "/%7f", "/..", "/a/../..", "/%2e%2e/x", "/./../x",
		"/a;b", "/a;jsessionid=1/b", "/a%3bb", "/a\\b",
		"/%252e%252e/x", "/%252f", "/%25%32%65", "/%2%35", "/%2525", "/%25%25",
		"/%c0%ae", "/%e0%80%af", "/%ff", "/a%2f..%2fb", "/a%5c..", "/%2f%2e%2e",
		"/a?%", "/a?x=%0", "/a?x=%00", "/a?x#y",
		"/" + strings.Repeat("a", maxTarget), "/?" + strings.Repeat("a&", maxPairs+1),
	} {
		got, err := Parse(in)
		var refused Error
		if !errors.As(err, &refused) {
			t.Errorf("Parse(%.60q) = %q, %v, want an Error", in, got.String(), err)
		}
	}
}

func TestQueryIsDecoded(t *testing.T) {
	got, err := Parse("/a?k=1&k=%32&a+b=c%2bd&e")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"k": {"1", "2"}, "a b": {"c+d"}, "e": {""}}
	if d := cmp.Diff(want, got.Query); d != "" {
		t.Errorf("query (-want +got):\n%s", d)
	}
}

func TestEncodedSlashIsTold(t *testing.T) {
	for in, want := range map[string]bool{"/a/b": false, "/a%2fb": true, "/a%5Cb": true, "/a?b=%2f": false} {
		if got, err := Parse(in); err != nil || got.EncodedSlash != want {
			t.Errorf("Parse(%q): EncodedSlash = %v, %v, want %v", in, got.EncodedSlash, err, want)
		}
	}
}

// FuzzParse holds the canonical form against what net/url makes of it, and
// against itself.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"/", "*", "/a/../b", "/%2e%2e", "/%252e", "//a", "/a;b", "/%2F..", "/a?b=c+d;e&f", "/%c3%a9?%ff=1", "/a/%2e/./b//", "/%25%32%65"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Parse(in)
		if err != nil {
			return
		}
		out := got.String()
		again, err := Parse(out)
		if err != nil || again.String() != out {
			t.Fatalf("Parse(%q) = %q, whose own form is %q, %v", in, out, again.String(), err)
		}
		if d := cmp.Diff(got.Query, again.Query); d != "" {
			t.Fatalf("Parse(%q): query changes:\n%s", in, d)
		}
		if out == "*" {
			return
		}
		u, err := url.ParseRequestURI(out)
		if err != nil {
			t.Fatalf("Parse(%q) = %q: %v", in, out, err)
		}
		for s := range strings.SplitSeq(strings.ReplaceAll(u.Path, "\\", "/"), "/") {
			if s == ".." || s == "." {
				t.Fatalf("Parse(%q) = %q, which decodes to a dot segment", in, out)
			}
		}
		if strings.ContainsAny(u.Path, "\x00;\r\n") || !got.EncodedSlash && strings.Contains(u.Path, "\\") {
			t.Fatalf("Parse(%q) = %q, which decodes to %q", in, out, u.Path)
		}
		if once, err := url.PathUnescape(u.Path); err == nil && once != u.Path {
			t.Fatalf("Parse(%q) = %q can be decoded twice", in, out)
		}
		values, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			t.Fatalf("Parse(%q): query %q: %v", in, u.RawQuery, err)
		}
		if d := cmp.Diff(map[string][]string(values), got.Query); d != "" && len(values)+len(got.Query) > 0 {
			t.Fatalf("Parse(%q): net/url reads another query:\n%s", in, d)
		}
	})
}
