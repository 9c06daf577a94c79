package match

import (
	"strings"
	"testing"
	"time"
)

func TestHost(t *testing.T) {
	for _, tt := range []struct {
		pattern, host string
		want          bool
	}{
		{"a.example", "a.example", true}, {"a.example", "b.example", false},
		{"*.a.com", "x.a.com", true}, {"*.a.com", "a.com", false}, {"*.a.com", "x.y.a.com", false},
		{"*.a.com", "xa.com", false}, {"*.a.com", "x.a.com.evil", false}, {"*.a.com", ".a.com", false},
		{"**.a.com", "x.a.com", true}, {"**.a.com", "x.y.a.com", true}, {"**.a.com", "a.com", false},
		{"**.a.com", "xa.com", false}, {"**.a.com", "x.a.com.evil", false}, {"**.a.com", ".a.com", false},
		{"api-*.a.com", "api-1.a.com", true}, {"api-*.a.com", "api-1.b.a.com", false}, {"api-*.a.com", "xapi-1.a.com", false},
	} {
		if got := Host(tt.pattern, tt.host); got != tt.want {
			t.Errorf("Host(%q, %q) = %v", tt.pattern, tt.host, got)
		}
	}
}

func TestPathAndBinary(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"/x/**", "/x", true}, {"/x/**", "/x/a/b", true}, {"/x/**", "/xy", false},
		{"/repos/*/*/secrets/**", "/repos/a/b/secrets/c", true}, {"/repos/*/*/secrets/**", "/repos/a/secrets", false},
		{"/a*", "/abc", true}, {"/a*", "/a/b", false}, {"/a/?", "/a/b", true}, {"**", "/anything/at/all", true},
		{"/**/z", "/z", true}, {"/**/z", "/a/b/z", true}, {"/**/z", "/a/b/zz", false}, {"/usr/lib/agent/**", "/usr/lib/agent/bin/x", true},
		{"", "/", false}, {"/*", "/", true},
	} {
		if got := Path(tt.pattern, tt.path); got != tt.want {
			t.Errorf("Path(%q, %q) = %v", tt.pattern, tt.path, got)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"a*c", "a.b/c", true}, {"a?c", "abc", true}, {"a?c", "ac", false}, {"*.b", "a.b", true},
		{"[a]", "a", false}, {"[a]", "[a]", true}, {"a**b", "ab", true}, {"", "", true}, {"", "x", false},
	} {
		if got := Glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("Glob(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}

// A pattern made to be slow is not.
func TestGlobIsNotExponential(t *testing.T) {
	done := make(chan bool)
	go func() {
		done <- Glob(strings.Repeat("*a", 2000)+"b", strings.Repeat("a", 20000)) ||
			Path(strings.Repeat("/**/a", 500), strings.Repeat("/a", 499)+"/b")
	}()
	select {
	case got := <-done:
		if got {
			t.Error("matched")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still matching after 20 s")
	}
}

func TestCanonicalHost(t *testing.T) {
	for in, want := range map[string]string{
		"Example.COM": "example.com", "example.com.": "example.com", "bücher.example": "xn--bcher-kva.example",
		"XN--BCHER-KVA.example": "xn--bcher-kva.example", "1.2.3.4": "1.2.3.4", "::1": "::1", "::FFFF:10.0.0.1": "10.0.0.1",
		"2606:2800:220:1:0:0:0:1": "2606:2800:220:1::1", "ex\u3002ample.com": "ex.ample.com", "_srv.example": "_srv.example", "localhost": "localhost",
	} {
		if got, err := CanonicalHost(in); got != want || err != nil {
			t.Errorf("CanonicalHost(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ".", "..", "a..b", "example.com..", ".example.com", "0177.0.0.1", "0x7f.1", "127.1", "2130706433", "0x7f000001", "1.2.3.4.",
		"1.2.3.04", "a.0x1", "[::1]", "fe80::1%eth0", "user@host", "a:80", "a/b", "a\\b", "a b", "a\x00b", "a\tb", "a%2eb", "*.a", "a,b",
		"-", strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 200) + "com", "\xff.com", "xn--a.example", "１.２.３.４",
	} {
		if got, err := CanonicalHost(in); err == nil && in != "-" && got != "1.2.3.4" {
			t.Errorf("CanonicalHost(%q) = %q, want an error", in, got)
		}
	}
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"a.example", "1.2.3.4", "bücher.de", "0x1", "xn--a", "::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := CanonicalHost(s)
		if err != nil {
			return
		}
		again, err := CanonicalHost(h)
		if err != nil || again != h {
			t.Errorf("CanonicalHost(%q) = %q, which becomes %q, %v", s, h, again, err)
		}
		if strings.ContainsAny(h, "[]@%/\\ \x00") || strings.HasSuffix(h, ".") || strings.ToLower(h) != h {
			t.Errorf("CanonicalHost(%q) = %q", s, h)
		}
	})
}

func FuzzGlobAgainstNaive(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Fuzz(func(t *testing.T, p, s string) {
		if len(p) > 12 || len(s) > 16 {
			return
		}
		if got, want := Glob(p, s), naive(p, s); got != want {
			t.Errorf("Glob(%q, %q) = %v, want %v", p, s, got, want)
		}
	})
}

func naive(p, s string) bool {
	switch {
	case p == "":
		return s == ""
	case p[0] == '*':
		return naive(p[1:], s) || s != "" && naive(p, s[1:])
	case s == "":
		return false
	}
	return (p[0] == '?' || p[0] == s[0]) && naive(p[1:], s[1:])
}
