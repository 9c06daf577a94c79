package graphql

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

var asJSON = http.Header{"Content-Type": {"application/json"}}

func get(query string) policy.Request {
	q, err := url.ParseQuery(query)
	if err != nil {
		panic(err)
	}
	return policy.Request{Method: "GET", Query: q}
}

func body(parts map[string]any) string {
	b, err := json.Marshal(parts)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func sum(query string) string {
	s := sha256.Sum256([]byte(query))
	return hex.EncodeToString(s[:])
}

// op is an operation as want.
func op(typ, name string, fields ...string) policy.Operation {
	return policy.Operation{Type: typ, Name: name, Fields: fields}
}

// TestDocuments: what a text would run, by the specification.
func TestDocuments(t *testing.T) {
	for _, c := range []struct {
		name, query, operation string
		want                   policy.Operation
	}{
		{"shorthand", `{ viewer { login } }`, "", op("query", "", "viewer")},
		{"query", `query Q($n: Int = 3) { a(n: $n) b }`, "", op("query", "Q", "a", "b")},
		{"mutation", `mutation { deleteRepository(id: 1) { id } }`, "", op("mutation", "", "deleteRepository")},
		{"subscription", `subscription S { events }`, "", op("subscription", "S", "events")},
		{"alias", `mutation { viewer: deleteRepository(id: 1) { id } }`, "", op("mutation", "", "deleteRepository")},
		{"two aliases of one field", `{ x: a y: a z: b }`, "", op("query", "", "a", "b")},
		{"named one of two", `query A { a } mutation B { b }`, "B", op("mutation", "B", "b")},
		{"named one of two, the other", `query A { a } mutation B { b }`, "A", op("query", "A", "a")},
		{"name of the only one", `query A { a }`, "A", op("query", "A", "a")},
		{"fragment", `query { ...F } fragment F on Query { a ...G } fragment G on Query { b }`, "", op("query", "", "a", "b")},
		{"fragment before its use", `fragment F on Query { a } query { ...F }`, "", op("query", "", "a")},
		{"inline fragment", `mutation { ... on Mutation { a ... @include(if: true) { b } } }`, "", op("mutation", "", "a", "b")},
		{"circle of fragments", `{ ...F } fragment F on Q { a ...G } fragment G on Q { b ...F }`, "", op("query", "", "a", "b")},
		{"skipped field", `{ a @skip(if: true) b }`, "", op("query", "", "a", "b")},
		{"introspection", `{ __schema { types { name } } __typename }`, "", op("query", "", "__schema", "__typename")},
		{"comment with an operation", "# mutation { b }\n{ a }", "", op("query", "", "a")},
		{"operation after a comment that CR ends", "# {\rmutation { b }", "", op("mutation", "", "b")},
		{"line separator does not end a comment", "# \u2028mutation { b }\nquery { a }", "", op("query", "", "a")},
		{"operation in a string", `{ a(text: "} mutation { b }") }`, "", op("query", "", "a")},
		{"operation in a block string", `{ a(text: """ \""" } mutation { b } """) }`, "", op("query", "", "a")},
		{"commas and a byte order mark", "\ufeff,,{,a,,b,}", "", op("query", "", "a", "b")},
		{"nested fields are not roots", `{ a { b { c } } }`, "", op("query", "", "a")},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts := map[string]any{"query": c.query, "variables": map[string]any{"n": 1}}
			q := url.Values{"query": {c.query}}
			if c.operation != "" {
				parts["operationName"] = c.operation
				q.Set("operationName", c.operation)
			}
			for how, read := range map[string]func() ([]policy.Operation, error){
				"POST": func() ([]policy.Operation, error) {
					return Read(policy.Request{Method: "POST"}, asJSON, []byte(body(parts)), Options{})
				},
				"GET": func() ([]policy.Operation, error) {
					return Read(policy.Request{Method: "GET", Query: q}, nil, nil, Options{})
				},
				"message": func() ([]policy.Operation, error) {
					return ReadMessage(TransportWS, []byte(body(map[string]any{"id": "1", "type": "subscribe", "payload": parts})), Options{})
				},
			} {
				got, err := read()
				if err != nil {
					t.Fatalf("%s of %s = %v, want an operation", how, c.query, err)
				}
				if diff := cmp.Diff([]policy.Operation{c.want}, got); diff != "" {
					t.Errorf("%s of %s differs (-want +got):\n%s", how, c.query, diff)
				}
			}
		})
	}
}

func TestRead(t *testing.T) {
	const q = `{ a }`
	for _, c := range []struct {
		name string
		r    policy.Request
		h    http.Header
		body string
		want []policy.Operation
	}{
		{"batch", policy.Request{Method: "POST"}, asJSON, `[{"query":"{a}"},{"query":"mutation M{b}"}]`, []policy.Operation{op("query", "", "a"), op("mutation", "M", "b")}},
		{"null parts", policy.Request{Method: "POST"}, asJSON, `{"query":"{a}","operationName":null,"variables":null,"extensions":null}`, []policy.Operation{op("query", "", "a")}},
		{"charset", policy.Request{Method: "POST"}, http.Header{"Content-Type": {"application/json; charset=UTF-8"}}, `{"query":"{a}"}`, []policy.Operation{op("query", "", "a")}},
		{"text alone", policy.Request{Method: "POST"}, http.Header{"Content-Type": {"application/graphql"}}, q, []policy.Operation{op("query", "", "a")}},
		{"other query of the URL", policy.Request{Method: "POST", Query: url.Values{"tenant": {"x"}}}, asJSON, `{"query":"{a}"}`, []policy.Operation{op("query", "", "a")}},
		{"HEAD", policy.Request{Method: "HEAD", Query: url.Values{"query": {q}}}, nil, "", []policy.Operation{op("query", "", "a")}},
		{"hash", policy.Request{Method: "POST"}, asJSON, body(map[string]any{"operationName": "A", "extensions": map[string]any{"persistedQuery": map[string]any{"version": 1, "sha256Hash": sum(q)}}}),
			[]policy.Operation{{Name: "A", Persisted: sum(q)}}},
		{"hash and its text", policy.Request{Method: "POST"}, asJSON, body(map[string]any{"query": q, "extensions": map[string]any{"persistedQuery": map[string]any{"version": 1, "sha256Hash": sum(q)}}}),
			[]policy.Operation{op("query", "", "a")}},
		{"hash in the URL", get("extensions=" + url.QueryEscape(`{"persistedQuery":{"version":1,"sha256Hash":"`+sum(q)+`"}}`)), nil, "", []policy.Operation{{Persisted: sum(q)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read(c.r, c.h, []byte(c.body), Options{})
			if err != nil {
				t.Fatalf("Read(%s) = %v, want operations", c.body, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Read(%s) differs (-want +got):\n%s", c.body, diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	post := policy.Request{Method: "POST"}
	query := func(q string) string { return body(map[string]any{"query": q}) }
	inURL := func(pairs string) policy.Request { r := get(pairs); r.Method = "POST"; return r }
	typed := func(ct string) http.Header { return http.Header{"Content-Type": {ct}} }
	hashed := func(p string) string { return `{"extensions":{"persistedQuery":` + p + `}}` }
	for _, c := range []struct {
		name string
		r    policy.Request
		h    http.Header
		body string
		want string
	}{
		{"no query", post, asJSON, `{}`, "no GraphQL query"},
		{"empty batch", post, asJSON, `[]`, "empty"},
		{"bad second of a batch", post, asJSON, `[{"query":"{a}"},{}]`, "no GraphQL query"},
		{"batch in a batch", post, asJSON, `[[{"query":"{a}"}]]`, "object"},
		{"query twice", post, asJSON, `{"query":"{a}","query":"mutation{b}"}`, "twice"},
		{"query in two cases", post, asJSON, `{"query":"{a}","Query":"mutation{b}"}`, "case"},
		{"operation name in another case", post, asJSON, `{"query":"query A{a} mutation B{b}","operationName":"A","operationname":"B"}`, "case"},
		{"unknown member", post, asJSON, `{"query":"{a}","documentId":"x"}`, "documentId"},
		{"query is a list", post, asJSON, `{"query":["{a}"]}`, "string"},
		{"variables is text", post, asJSON, `{"query":"{a}","variables":"{}"}`, "variables"},
		{"extensions is a list", post, asJSON, `{"query":"{a}","extensions":[]}`, "extensions"},
		{"in URL and body", inURL("query={b}"), asJSON, query("{a}"), "in the URL"},
		{"operation name in the URL", inURL("operationName=B"), asJSON, query("query A{a}"), "in the URL"},
		{"extensions in the URL", inURL("extensions={}"), asJSON, query("{a}"), "in the URL"},
		{"another case in the URL", inURL("Query={b}"), asJSON, query("{a}"), "could be taken"},
		{"PHP's array in the URL", inURL("query[]={b}"), asJSON, query("{a}"), "could be taken"},
		{"id in the URL", inURL("documentId=x"), asJSON, query("{a}"), "stored query"},
		{"twice in the URL", get("query={a}&query=mutation{b}"), nil, "", "2 times"},
		{"GET with a body", get("query={a}"), asJSON, query("mutation{b}"), "no body"},
		{"GET without anything", get(""), nil, "", "no GraphQL query"},
		{"PUT", policy.Request{Method: "PUT"}, asJSON, query("{a}"), "PUT"},
		{"multipart", post, typed("multipart/form-data; boundary=x"), "--x", "multipart"},
		{"form", post, typed("application/x-www-form-urlencoded"), "query={a}", "form"},
		{"no type", post, nil, query("{a}"), "Content-Type"},
		{"JSON as text", post, typed("application/graphql"), query("{a}"), "not GraphQL"},
		{"gzip", post, http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, "x", "encoded"},
		{"no operation", post, asJSON, query(`fragment F on Q { a }`), "no operation"},
		{"type definition", post, asJSON, query(`type Q { a: Int } query { a }`), "not GraphQL"},
		{"two without a name given", post, asJSON, query(`query A { a } mutation B { b }`), "operationName"},
		{"unnamed beside a named one", post, asJSON, body(map[string]any{"query": `{ a } mutation B { b }`, "operationName": "B"}), "without a name"},
		{"two of one name", post, asJSON, body(map[string]any{"query": `query A { a } mutation A { b }`, "operationName": "A"}), "two operations"},
		{"name of none", post, asJSON, body(map[string]any{"query": `query A { a }`, "operationName": "B"}), `named "B"`},
		{"two fragments of one name", post, asJSON, query(`{ ...F } fragment F on Q { a } fragment F on Q { b }`), "two fragments"},
		{"no such fragment", post, asJSON, query(`{ ...F }`), "no fragment"},
		{"no field", post, asJSON, query(`{ ...F } fragment F on Q { ...F }`), "no field"},
		{"empty selection", post, asJSON, query(`{ }`), "not GraphQL"},
		{"vertical tab in a comment", post, asJSON, query("# \vmutation { b }\n{ a }"), "not GraphQL"},
		{"unfinished", post, asJSON, query(`{ a `), "not GraphQL"},
		{"text of the bound of tokens in a wrong place", post, asJSON, query(`fragment F "exceeded token limit" Q { a }`), "not GraphQL"},
		{"whole text of that bound", post, asJSON, query(`fragment F "exceeded token limit of 20000" Q { a }`), "not GraphQL"},
		{"text of the bound of levels in a wrong place", post, asJSON, query(`fragment F "exceeded maximum nesting depth of 1000" Q { a }`), "not GraphQL"},
		{"wrong hash", post, asJSON, body(map[string]any{"query": "{a}", "extensions": map[string]any{"persistedQuery": map[string]any{"version": 1, "sha256Hash": sum("mutation{b}")}}}), "not the hash"},
		{"hash in upper case", post, asJSON, hashed(`{"version":1,"sha256Hash":"` + strings.ToUpper(sum("{a}")) + `"}`), "lower case"},
		{"hash of another version", post, asJSON, hashed(`{"version":2,"sha256Hash":"` + sum("{a}") + `"}`), "version"},
		{"hash without one", post, asJSON, hashed(`{"version":1}`), "sha256Hash"},
		{"another case of persistedQuery", post, asJSON, `{"query":"{a}","extensions":{"PersistedQuery":{}}}`, "could be taken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read(c.r, c.h, []byte(c.body), Options{})
			m, ok := errors.AsType[*jsonval.Malformed](err)
			if !ok || !strings.Contains(m.Detail, c.want) {
				t.Errorf("Read(%s) = %v, %v, want *Malformed with %q", c.body, got, err, c.want)
			}
		})
	}
}

// TestReadLimits: what is just below each bound is read, what is above it is refused and costs little.
func TestReadLimits(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("{a", n) + strings.Repeat("}", n) }
	query := func(q string) string { return body(map[string]any{"query": q}) }
	batch := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`{"query":"{a}"},`, n), ",") + "]" }
	lists := func(n int) string { return query("{a(x:" + strings.Repeat("[", n) + strings.Repeat("]", n) + ")}") }
	fields := func(n int) string { return query("{" + strings.Repeat("a ", n) + "}") } // and two tokens more, and their end
	padded := func(n int) string { return query("{a}") + strings.Repeat(" ", n-len(query("{a}"))) }
	large := Options{MaxBody: 1 << 20}
	for _, c := range []struct {
		name, body string
		o          Options
		ok         bool
	}{
		{"depth reached", query(nested(5)), Options{Depth: 5}, true},
		{"depth exceeded", query(nested(6)), Options{Depth: 5}, false},
		{"default depth reached", query(nested(128)), Options{}, true},
		{"default depth exceeded", query(nested(129)), Options{}, false},
		{"depth in a fragment", query("{b} fragment F on Q " + nested(6)), Options{Depth: 5}, false},
		{"depth in the other operation", body(map[string]any{"query": "query A{b} query B " + nested(6), "operationName": "A"}), Options{Depth: 5}, false},
		{"batch reached", batch(3), Options{MaxBatch: 3}, true},
		{"batch exceeded", batch(4), Options{MaxBatch: 3}, false},
		{"default batch reached", batch(16), Options{}, true},
		{"default batch exceeded", batch(17), Options{}, false},
		{"body exceeded", query("{a}"), Options{MaxBody: 10}, false},
		{"body of the default reached", padded(64 << 10), Options{}, true},
		{"body of the default exceeded", padded(64<<10 + 1), Options{}, false},
		{"tokens reached", fields(19997), large, true},
		{"tokens exceeded", fields(20000), large, false},
		{"tokens far exceeded", fields(400000), large, false},
		{"levels of lists reached", lists(999), large, true},
		{"levels of lists exceeded", lists(1000), large, false},
		{"levels of selections far exceeded", query(strings.Repeat("{a", 15000)), large, false},
		{"levels of values far exceeded", query("{a(x:" + strings.Repeat("[{x:", 15000)), large, false},
		{"levels of types far exceeded", query("query Q($x: " + strings.Repeat("[", 20000)), large, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Read(policy.Request{Method: "POST"}, asJSON, []byte(c.body), c.o)
			runtime.ReadMemStats(&after)
			if _, tooLarge := errors.AsType[*jsonval.TooLarge](err); tooLarge == c.ok || c.ok && err != nil {
				t.Errorf("Read = %v, want success %v or *TooLarge", err, c.ok)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
				t.Errorf("Read of %d bytes made %d bytes of garbage, want less than 32 MiB", len(c.body), used)
			}
		})
	}
}

func TestReadMessage(t *testing.T) {
	const sub = `{"id":"1","type":%q,"payload":{"query":"mutation{b}"}}`
	for _, c := range []struct {
		name, protocol, text string
		want                 []policy.Operation
		refused              string
	}{
		{"subscribe", TransportWS, fmt.Sprintf(sub, "subscribe"), []policy.Operation{op("mutation", "", "b")}, ""},
		{"start", GraphQLWS, fmt.Sprintf(sub, "start"), []policy.Operation{op("mutation", "", "b")}, ""},
		{"init", TransportWS, `{"type":"connection_init","payload":{"token":"x"}}`, nil, ""},
		{"ping", TransportWS, `{"type":"ping"}`, nil, ""},
		{"stop", GraphQLWS, `{"type":"stop","id":"1"}`, nil, ""},
		{"start in the newer one", TransportWS, fmt.Sprintf(sub, "start"), nil, "no message"},
		{"subscribe in the older one", GraphQLWS, fmt.Sprintf(sub, "subscribe"), nil, "no message"},
		{"no subprotocol", "", fmt.Sprintf(sub, "subscribe"), nil, "subprotocol"},
		{"another subprotocol", "mqtt", fmt.Sprintf(sub, "subscribe"), nil, "subprotocol"},
		{"no type", TransportWS, `{"id":"1"}`, nil, "no message"},
		{"type twice", TransportWS, `{"type":"ping","type":"subscribe","id":"1","payload":{"query":"{a}"}}`, nil, "twice"},
		{"unknown member", TransportWS, `{"type":"ping","query":"{a}"}`, nil, `"query"`},
		{"no payload", TransportWS, `{"type":"subscribe","id":"1"}`, nil, "payload"},
		{"no id", TransportWS, `{"type":"subscribe","payload":{"query":"{a}"}}`, nil, "id"},
		{"a batch", TransportWS, `[{"type":"ping"}]`, nil, "object"},
		{"a batch as payload", TransportWS, `{"id":"1","type":"subscribe","payload":[{"query":"{a}"}]}`, nil, "object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadMessage(c.protocol, []byte(c.text), Options{})
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("ReadMessage(%s) = %v, %v, want an error with %q", c.text, got, err, c.refused)
				}
				return
			}
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("ReadMessage(%s) = %v, differs (-want +got):\n%s", c.text, err, diff)
			}
		})
	}
}
