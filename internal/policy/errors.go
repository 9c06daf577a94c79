package policy

import (
	"fmt"
	"slices"
	"strings"
)

// PositionError is one thing that is wrong with a document.
type PositionError struct {
	File      string
	Line, Col int // from 1; 0 if the document as a whole is meant
	Msg       string
	Excerpt   string // the line in question
}

func (e *PositionError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Msg)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, e.Msg)
}

// Detail is the error with the line that it is about and a caret below the
// column.
func (e *PositionError) Detail() string {
	if e.Line == 0 || e.Excerpt == "" {
		return e.Error()
	}
	gutter := fmt.Sprintf("%5d | ", e.Line)
	pad := strings.Map(func(r rune) rune {
		if r == '\t' {
			return '\t'
		}
		return ' '
	}, prefix(e.Excerpt, e.Col-1))
	return fmt.Sprintf("%s\n%s%s\n%s%s^", e.Error(), gutter, e.Excerpt, strings.Repeat(" ", len(gutter)), pad)
}

// prefix is the first n runes of s.
func prefix(s string, n int) string {
	r := []rune(s)
	return string(r[:min(max(n, 0), len(r))])
}

// Errors are all that is wrong with a document, in its order.
type Errors []*PositionError

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Detail is every error with its excerpt.
func (e Errors) Detail() string {
	parts := make([]string, len(e))
	for i, p := range e {
		parts[i] = p.Detail()
	}
	return strings.Join(parts, "\n")
}

func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *PositionError) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return e
}

// Warning is something that is allowed and that a person should know.
type Warning struct {
	File      string
	Line, Col int
	Msg       string
}

func (w Warning) String() string { return fmt.Sprintf("%s:%d:%d: %s", w.File, w.Line, w.Col, w.Msg) }
