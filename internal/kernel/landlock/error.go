package landlock

import "strings"

// Side is whom an [Error] is about.
type Side uint8

// The sides.
const (
	Kernel Side = iota + 1 // the kernel lacks something
	Rule                   // what is to be granted cannot be
	Bug                    // this program asked for something senseless
)

// Error is every error of this package. errors.Is finds the errno in it.
type Error struct {
	Side   Side
	Op     string // what was being done
	Detail string // what was expected; may be empty
	Err    error  // the kernel's answer; nil when it was not asked
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Side == Bug {
		b.WriteString("bug: ")
	}
	b.WriteString("landlock: ")
	b.WriteString(e.Op)
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }
