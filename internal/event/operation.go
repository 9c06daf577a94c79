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

// size is how long all texts of an operation are, in bytes; one for each beside.
func (o Operation) size() int {
	n := len(o.Type) + len(o.Name) + len(o.Persisted) + len(o.Method) + len(o.Tool) + 1
	for _, f := range o.Fields {
		n += len(f) + 1
	}
	return n
}

// clone is o in memory of its own: its texts can be parts of a whole body.
func (o Operation) clone() Operation {
	c := Operation{strings.Clone(o.Type), strings.Clone(o.Name), slices.Clone(o.Fields), strings.Clone(o.Persisted), strings.Clone(o.Method), strings.Clone(o.Tool)}
	for i, f := range c.Fields {
		c.Fields[i] = strings.Clone(f)
	}
	return c
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
	told, left := []Operation{}, maxOperations
	for _, o := range all {
		if n := o.size(); n <= left { // one that is cut would look like another
			told, left = append(told, o.clone()), left-n
		}
	}
	e.note(operations, told)
	if n := len(all) - len(told); n > 0 {
		e.note(operationsLeftOut, n)
	}
}
