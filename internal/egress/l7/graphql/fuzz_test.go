package graphql

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

var documents = []string{
	`{ viewer { login } }`, `query A { a } mutation B { b }`, `mutation { x: a ...F } fragment F on M { b }`,
	"# c\r{ a }", `{ a(t: """x \""" y""") }`, `{ ... on Q @include(if: $x) { a } }`, `subscription S($a: [Int!]! = [1]) { s(a: $a) }`,
	"\ufeff{a}", `{ ...F } fragment F on Q { ...F }`, `"""d""" query Q { a }`,
}

// FuzzDocument: an operation has a type of the three and fields that the text has, or there is an error.
func FuzzDocument(f *testing.F) {
	for _, d := range documents {
		f.Add(d, "")
		f.Add(d, "B")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		op, err := document(text, name, Options{}.withDefaults())
		if err != nil {
			checkError(t, text, err)
			return
		}
		if !slices.Contains([]string{"query", "mutation", "subscription"}, op.Type) || name != "" && op.Name != name || len(op.Fields) == 0 {
			t.Fatalf("document(%q, %q) = %+v", text, name, op)
		}
		for _, field := range op.Fields {
			if field == "" || !strings.Contains(text, field) {
				t.Fatalf("document(%q) has the field %q", text, field)
			}
		}
	})
}

// FuzzRead: a request and a message with the same text in them are read alike.
func FuzzRead(f *testing.F) {
	for _, d := range documents {
		b, err := json.Marshal(map[string]string{"query": d})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`[{"query":"{a}"},{"query":"{b}","operationName":null}]`))
	f.Add([]byte(`{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"` + sum("{a}") + `"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ops, err := Read(policy.Request{Method: "POST"}, asJSON, body, Options{})
		if err != nil {
			checkError(t, string(body), err)
		} else if len(ops) == 0 {
			t.Fatalf("Read(%q): no operation and no error", body)
		}
		message := slices.Concat([]byte(`{"id":"1","type":"subscribe","payload":`), body, []byte("}"))
		over, overErr := ReadMessage(TransportWS, message, Options{})
		if overErr == nil && (err != nil || len(ops) != 1 || len(over) != 1 || over[0].Type != ops[0].Type || !slices.Equal(over[0].Fields, ops[0].Fields)) {
			t.Fatalf("Read(%q) = %v, %v, but as a message %v", body, ops, err, over)
		}
	})
}

func checkError(t *testing.T, text string, err error) {
	_, malformed := errors.AsType[*jsonval.Malformed](err)
	_, large := errors.AsType[*jsonval.TooLarge](err)
	if !malformed && !large {
		t.Fatalf("%q: %T %v, want *Malformed or *TooLarge", text, err, err)
	}
}
