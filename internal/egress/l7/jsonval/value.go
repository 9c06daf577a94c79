package jsonval

import (
	"strings"
	"unicode"
)

// Kind is what a value is.
type Kind uint8

// The kinds.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

// String is the kind's name with its article, for messages.
func (k Kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// Value is one JSON value. It refers to nothing of the text that it was read from.
type Value struct {
	Kind    Kind
	Text    string   // of a string: decoded; of a number, a boolean and null: as [Read] says
	Items   []Value  // of an array
	Members []Member // of an object, in the order of the text
}

// Member is one member of an object.
type Member struct {
	Name  string
	Value Value
}

// Get returns the member of this very name, nil if v is no object or has none.
func (v *Value) Get(name string) *Value {
	if v == nil || v.Kind != Object {
		return nil
	}
	for i := range v.Members {
		if v.Members[i].Name == name {
			return &v.Members[i].Value
		}
	}
	return nil
}

// String returns the text of a member that must be a string if it is there. Absent and null are "".
func (v *Value) String(name string) (string, error) {
	m := v.Get(name)
	switch {
	case m == nil || m.Kind == Null:
		return "", nil
	case m.Kind != String:
		return "", Malformedf("%q is %v, expected a string", name, m.Kind)
	}
	return m.Text, nil
}

// Only returns a *Malformed if v is no object, or has a member that is not in known.
func (v *Value) Only(what string, known ...string) error {
	if v.Kind != Object {
		return Malformedf("%s is %v, expected an object", what, v.Kind)
	}
next:
	for _, m := range v.Members {
		for _, k := range known {
			if m.Name == k {
				continue next
			}
		}
		return Malformedf("%s has the member %.80q; expected only %s", what, m.Name, strings.Join(known, ", "))
	}
	return nil
}

// Looks returns which of the known names a name could be taken for by a lenient reader: one that ignores case
// (of any alphabet), or marks between the letters, as form decoders and object mappers do. It is "" for a name
// that could be taken for none, and for a known name itself.
func Looks(name string, known ...string) string {
	loose := letters(name)
	for _, k := range known {
		if name == k {
			return ""
		}
	}
	for _, k := range known {
		if loose == letters(k) {
			return k
		}
	}
	return ""
}

func letters(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return foldRune(r)
	}, s)
}

// fold maps names that a reader which ignores case could take for one another to one text.
func fold(s string) string { return strings.Map(foldRune, s) }

// foldRune goes beyond simple case folding, in which the dotless i is a letter of its own: its upper case is
// the I, and there are libraries that compare upper case.
func foldRune(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r
	}
	if 'a' <= r && r <= 'z' {
		return r - 'a' + 'A'
	}
	r = unicode.ToLower(unicode.ToUpper(r))
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}
