package match

import "strings"

// GlobCovers says whether every value that pattern g of Glob matches is matched
// by h. It may say no where that is so.
func GlobCovers(h, g string) bool {
	if h == g {
		return true
	}
	// Without a ?, every star of g is taken in by a star of h, or the texts differ.
	return !strings.Contains(h+g, "?") && wild(h, g, 0)
}

// PathCovers is GlobCovers for the patterns of Path and Binary.
func PathCovers(h, g string) bool {
	if h == g {
		return true
	}
	return segmentsBy(h, g, "/", func(p, s string) bool { return s != "**" && GlobCovers(p, s) })
}

// HostCovers is GlobCovers for canonical host patterns.
func HostCovers(h, g string) bool {
	if h == g {
		return true
	}
	if rest, deep := strings.CutPrefix(h, "**."); deep {
		return strings.HasSuffix(g, "."+rest)
	}
	first, rest, _ := strings.Cut(h, ".")
	if !strings.Contains(first, "*") {
		return false
	}
	label, tail, _ := strings.Cut(g, ".")
	return tail == rest && label != "**" && GlobCovers(first, label)
}
