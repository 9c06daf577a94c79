package event

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Operation is one thing that a request asks for in its body: a GraphQL operation,
// or a call of JSON-RPC or MCP. Variables and arguments are not recorded.
type Operation struct {
	Type      string   `json:"type,omitempty"`      // GraphQL: query, mutation or subscription
	Name      string   `json:"name,omitempty"`      // GraphQL
	Fields    []string `json:"fields,omitempty"`    // GraphQL: root fields
	Persisted string   `json:"persisted,omitempty"` // GraphQL: hash of the text, where that is not there
	Method    string   `json:"method,omitempty"`    // JSON-RPC, MCP
	Tool      string   `json:"tool,omitempty"`      // of an MCP tools/call
}

// String is the operation in a few words.
func (o Operation) String() string {
	words := slices.DeleteFunc([]string{o.Type, o.Name, strings.Join(o.Fields, ", "), o.Persisted, o.Method, o.Tool}, func(s string) bool { return s == "" })
	return strings.Join(words, " ")
}

// bounded says whether an operation has a place in an event. One that is cut would
// look like another.
func (o Operation) bounded() bool {
	texts := append([]string{o.Type, o.Name, o.Persisted, o.Method, o.Tool}, o.Fields...)
	return len(texts) <= maxOperations && !slices.ContainsFunc(texts, func(s string) bool { return len(s) > maxHost })
}

// Where Event.Unmapped has the operations, and how many were left out.
const (
	operations        = "operations"
	operationsLeftOut = "operations_left_out"
)

// Operations are those of the request, and whether they are all: too many, and those
// that are too long, are left out. It reads events that were stored as JSON, too.
func (e Event) Operations() (told []Operation, all bool) {
	told, ok := e.Unmapped[operations].([]Operation)
	if stored := e.Unmapped[operations]; stored != nil && !ok {
		b, err := json.Marshal(stored)
		if err != nil || json.Unmarshal(b, &told) != nil {
			return nil, false
		}
	}
	return told, e.Unmapped[operationsLeftOut] == nil
}

func (e *Event) noteOperations(all []Operation) {
	if len(all) == 0 {
		return
	}
	e.Unmapped = maps.Clone(e.Unmapped) // it is shared
	told := slices.DeleteFunc(slices.Clone(all), func(o Operation) bool { return !o.bounded() })
	told = told[:min(len(told), maxOperations)]
	e.note(operations, told)
	if n := len(all) - len(told); n > 0 {
		e.note(operationsLeftOut, n)
	}
}
