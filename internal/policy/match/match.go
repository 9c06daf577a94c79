// Package match holds the patterns of the policy language: hosts, paths, the
// values of fields, and executables.
//
// Deliberately not here: what follows from a match.
//
// What must hold: matching takes time in the product of the two lengths at
// most, whatever the pattern; a star never crosses a separator, two stars do.
package match

import "strings"

// Glob matches a value as a whole: * stands for any characters, ? for one.
// Nothing else is special, a dot included.
func Glob(pattern, s string) bool { return wild(pattern, s, 0) }

// wild matches with * and ?, neither of which crosses the byte sep unless it is
// zero. Only the last star is ever retried, which bounds the work.
func wild(p, s string, sep byte) bool {
	i, j := 0, 0
	star, mark := -1, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == s[j] || p[i] == '?' && (sep == 0 || s[j] != sep)):
			i++
			j++
		case star >= 0 && (sep == 0 || s[mark] != sep):
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// Path matches a canonical URL path: * and ? stay within a segment, ** stands
// for any number of segments, and /x/** matches /x as well.
func Path(pattern, path string) bool { return segments(pattern, path, "/") }

// Binary matches the path of an executable, with the stars of Path.
func Binary(pattern, path string) bool { return segments(pattern, path, "/") }

// segments matches element by element; a pattern element ** takes any number.
func segments(pattern, s, sep string) bool {
	return segmentsBy(pattern, s, sep, func(p, e string) bool { return wild(p, e, 0) })
}

func segmentsBy(pattern, s, sep string, fits func(pattern, element string) bool) bool {
	p, v := strings.Split(pattern, sep), strings.Split(s, sep)
	i, j := 0, 0
	star, mark := -1, 0
	for j < len(v) {
		switch {
		case i < len(p) && p[i] == "**":
			star, mark = i, j
			i++
		case i < len(p) && fits(p[i], v[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == "**" {
		i++
	}
	return i == len(p)
}

// Host matches a canonical host name against a canonical pattern: *.x.y is one
// label before x.y, **.x.y one or more, and a * inside the first label stays in
// it.
func Host(pattern, host string) bool {
	if rest, is := strings.CutPrefix(pattern, "**."); is {
		return len(host) > len(rest)+1 && strings.HasSuffix(host, rest) && host[len(host)-len(rest)-1] == '.' && host[0] != '.'
	}
	first, rest, _ := strings.Cut(pattern, ".")
	if !strings.Contains(first, "*") {
		return pattern == host
	}
	label, tail, _ := strings.Cut(host, ".")
	return tail == rest && label != "" && wild(first, label, 0)
}

// HostsOverlap says whether some host could match both patterns. It may say yes
// for two patterns whose first labels exclude each other.
func HostsOverlap(a, b string) bool {
	if a == b || a == "" || b == "" {
		return a == b
	}
	if !strings.Contains(a, "*") {
		return Host(b, a)
	}
	if !strings.Contains(b, "*") {
		return Host(a, b)
	}
	deepA, deepB := strings.HasPrefix(a, "**."), strings.HasPrefix(b, "**.")
	_, restA, _ := strings.Cut(a, ".")
	_, restB, _ := strings.Cut(b, ".")
	switch {
	case restA == restB:
		return true
	case deepA && strings.HasSuffix(restB, "."+restA), deepB && strings.HasSuffix(restA, "."+restB):
		return true
	}
	return false
}
