package jsonval

import "fmt"

// Malformed says why a request cannot be read. It is the client's fault: status 400.
type Malformed struct{ Detail string }

func (e *Malformed) Error() string { return e.Detail }

// Malformedf makes a *Malformed. What it quotes of a request must be clipped by the caller.
func Malformedf(format string, args ...any) error {
	return &Malformed{fmt.Sprintf(format, args...)}
}

// TooLarge says which limit a request exceeds: status 413.
type TooLarge struct {
	What  string // what is counted, in the plural or with its unit
	Limit int64
}

func (e *TooLarge) Error() string { return fmt.Sprintf("more than %d %s", e.Limit, e.What) }
