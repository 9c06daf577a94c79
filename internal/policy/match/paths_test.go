package match

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Properties are tried with the same inputs in every run; -rapid.seed=0 explores.
var _ = flag.Set("rapid.seed", "1")

var someElements = []string{"", "a", "b", "ab", "aab", "x", "*", "**", "a*", "*b", "?", "a?b"}

func genPattern(t *rapid.T, label string) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom(someElements), 1, 5).Draw(t, label), "/")
}

func genPath(t *rapid.T, label string) string {
	return "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom(someElements[:6]), 0, 6).Draw(t, label), "/")
}

// TestPaths_likePath: the index finds what Path finds one pattern at a time, each once.
func TestPaths_likePath(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var x Paths[int]
		var patterns []string
		for i := range rapid.IntRange(0, 12).Draw(rt, "patterns") {
			patterns = append(patterns, genPattern(rt, "pattern"))
			x.Add(patterns[i], i)
		}
		for range 10 {
			path := genPath(rt, "path")
			var want []int
			for i, p := range patterns {
				if Path(p, path) {
					want = append(want, i)
				}
			}
			got := x.Match(nil, path)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				rt.Fatalf("Match(%q) = %v, want %v of %q", path, got, want, patterns)
			}
		}
	})
}

// TestPathsOverlap_neverMisses: two patterns that a path matches are said to overlap.
func TestPathsOverlap_neverMisses(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b, path := genPattern(rt, "a"), genPattern(rt, "b"), genPath(rt, "path")
		if Path(a, path) && Path(b, path) && !(PathsOverlap(a, b) && PathsOverlap(b, a)) {
			rt.Fatalf("PathsOverlap(%q, %q) = false, and both match %q", a, b, path)
		}
	})
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"", "/a", true}, {"/a", "/b", false}, {"/a/**", "/a", true}, {"/a/**", "/b/**", false}, {"/*/x", "/a/*", true},
		{"/*/x", "/a/y", false}, {"/**/x", "/a/**", true}, {"/a/b", "/a/b/c", false}, {"/a*", "/b", false}, {"**", "/a", true},
	} {
		if got := PathsOverlap(tt.a, tt.b); got != tt.want {
			t.Errorf("PathsOverlap(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}

func TestComparePaths(t *testing.T) {
	order := []string{"/a/b/c", "/a/b", "/a/b/*", "/a/*/c", "/a/b/**", "/a/**/c", "/a/*", "/a/**", "/**", "**"}
	for i, a := range order {
		for _, b := range order[i+1:] {
			if ComparePaths(a, b) > 0 || ComparePaths(b, a) < 0 {
				t.Errorf("%q is not at least as specific as %q", a, b)
			}
		}
	}
	if ComparePaths("/a/*", "/*/a") != 0 || ComparePaths("", "**") != 0 || ComparePaths("/a/b", "/a/*") >= 0 {
		t.Error("ComparePaths disagrees with its description")
	}
}
