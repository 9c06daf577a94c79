package jsonval

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func str(s string) Value { return Value{Kind: String, Text: s} }
func num(s string) Value { return Value{Kind: Number, Text: s} }

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Value
	}{
		{"string", ` "a\u00e9\n" `, str("aé\n")},
		{"surrogate pair", `"\ud83d\ude00"`, str("😀")},
		{"literals", `[null,true,false]`, Value{Kind: Array, Items: []Value{{Text: "null"}, {Kind: Bool, Text: "true"}, {Kind: Bool, Text: "false"}}}},
		{"integers", `[0,-7,12345678901234567890]`, Value{Kind: Array, Items: []Value{num("0"), num("-7"), num("12345678901234567890")}}},
		{"one form of a number", `[1.0,10e-1,-0,-0.0,1e2,0.50,1e30,1000000000000000000000000000000]`,
			Value{Kind: Array, Items: []Value{num("1"), num("1"), num("0"), num("0"), num("100"), num("0.5"), num("1e+30"), num("1e+30")}}},
		{"order of members", `{"b":1,"a":{"b":[]}}`, Value{Kind: Object, Members: []Member{{"b", num("1")}, {"a", Value{Kind: Object, Members: []Member{{"b", Value{Kind: Array}}}}}}}},
		{"same name in other objects", `[{"a":1},{"a":2,"b":{"A":3}}]`, Value{Kind: Array, Items: []Value{
			{Kind: Object, Members: []Member{{"a", num("1")}}},
			{Kind: Object, Members: []Member{{"a", num("2")}, {"b", Value{Kind: Object, Members: []Member{{"A", num("3")}}}}}},
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read([]byte(c.text), Limits{})
			if err != nil {
				t.Fatalf("Read(%s) = %v, want a value", c.text, err)
			}
			if diff := cmp.Diff(&c.want, got); diff != "" {
				t.Errorf("Read(%s) differs (-want +got):\n%s", c.text, diff)
			}
		})
	}
}

// TestReadRefuses: each text means different things to different readers, or nothing.
func TestReadRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", ``, "ends early"},
		{"space", " \n", "ends early"},
		{"unfinished", `{"a":1`, "ends early"},
		{"duplicate", `{"a":1,"a":2}`, "occurs twice"},
		{"duplicate by escape", `{"method":1,"m\u0065thod":2}`, "occurs twice"},
		{"duplicate deep inside", `[[{"x":{"a":1,"b":2,"a":3}}]]`, "occurs twice"},
		{"case", `{"method":1,"Method":2}`, "case only"},
		{"case deep inside", `{"a":[{"id":1,"ID":2}]}`, "case only"},
		{"long s", `{"params":1,"param\u017f":2}`, "case only"},
		{"kelvin", `{"k":1,"\u212a":2}`, "case only"},
		{"dotless i", `{"id":1,"\u0131d":2}`, "case only"},
		{"i with dot", `{"id":1,"\u0130d":2}`, "case only"},
		{"invalid UTF-8", "\"\xff\"", "not JSON"},
		{"lone surrogate", `"\ud800"`, "not JSON"},
		{"byte order mark", "\ufeff{}", "not JSON"},
		{"second value", `{} {}`, "behind"},
		{"rubbish behind", `{} x`, "behind"},
		{"NUL behind", "{}\x00", "behind"},
		{"comment", `{/**/}`, "not JSON"},
		{"trailing comma", `{"a":1,}`, "not JSON"},
		{"single quotes", `{'a':1}`, "not JSON"},
		{"bare name", `{a:1}`, "not JSON"},
		{"NaN", `NaN`, "not JSON"},
		{"plus", `+1`, "not JSON"},
		{"leading zero", `01`, "behind"},
		{"out of range", `1e400`, "out of range"},
		{"raw control", "\"a\nb\"", "not JSON"},
		{"closing bracket", `]`, "not JSON"},
		{"wrong bracket", `[}`, "not JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read([]byte(c.text), Limits{})
			m, ok := errors.AsType[*Malformed](err)
			if !ok || !strings.Contains(m.Detail, c.want) {
				t.Errorf("Read(%q) = %v, %v, want *Malformed with %q", c.text, got, err, c.want)
			}
		})
	}
}

func TestReadLimits(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	wide := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }
	l := Limits{Depth: 5, Values: 20}
	for _, c := range []struct {
		name, text string
		limits     Limits
		ok         bool
	}{
		{"depth reached", nested(5), l, true},
		{"depth exceeded", nested(6), l, false},
		{"objects are levels", `{"a":{"a":{"a":{"a":{"a":{}}}}}}`, l, false},
		{"values reached", wide(19), l, true},
		{"values exceeded", wide(20), l, false},
		{"default depth", nested(64), Limits{}, true},
		{"default depth exceeded", nested(65), Limits{}, false},
		{"a megabyte of brackets", strings.Repeat("[", 1<<20), Limits{}, false},
		{"default values reached", wide(1<<16 - 1), Limits{}, true},
		{"default values exceeded", wide(1 << 16), Limits{}, false},
		{"values far exceeded", wide(4 << 20), Limits{}, false},
		{"objects far exceeded", strings.ReplaceAll(wide(1<<20), "1", `{"a":{}}`), Limits{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := []byte(c.text)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Read(text, c.limits)
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 48<<20 {
				t.Errorf("Read of %d bytes made %d bytes of garbage, want less than 48 MiB", len(text), used)
			}
			if _, tooLarge := errors.AsType[*TooLarge](err); tooLarge == c.ok || c.ok && err != nil {
				t.Errorf("Read of %d bytes = %v, want success %v or *TooLarge", len(c.text), err, c.ok)
			}
		})
	}
}

func TestLooks(t *testing.T) {
	known := []string{"query", "operationName", "id"}
	for _, c := range []struct{ name, want string }{
		{"query", ""}, {"operationName", ""}, {"other", ""}, {"", ""}, {"queries", ""},
		{"Query", "query"}, {"QUERY", "query"}, {" query", "query"}, {"query[]", "query"}, {"que_ry", "query"},
		{"operation_name", "operationName"}, {"operation-name", "operationName"}, {"operatıonName", "operationName"}, {"ID", "id"}, {"İd", "id"},
	} {
		if got := Looks(c.name, known...); got != c.want {
			t.Errorf("Looks(%q) = %q, want %q", c.name, got, c.want)
		}
	}
}

// FuzzRead: what Read accepts, encoding/json accepts with the same meaning.
func FuzzRead(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.50,{"b":null}],"c":"\u00e9"}`, `{"a":1,"A":2}`, `{"a":1,"a":2}`, `"\ud800"`, `-0`, `1e400`, `[[[[]]]]`, "{}\x00", `{"k":1,"\u212a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Read(text, Limits{})
		if err != nil {
			_, malformed := errors.AsType[*Malformed](err)
			_, large := errors.AsType[*TooLarge](err)
			if !malformed && !large {
				t.Fatalf("Read(%q) = %T %v, want *Malformed or *TooLarge", text, err, err)
			}
			return
		}
		var want any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("Read took %q, which encoding/json refuses: %v", text, err)
		}
		if plain := plain(t, *got); !reflect.DeepEqual(plain, want) {
			t.Fatalf("Read(%q) = %#v, encoding/json: %#v", text, plain, want)
		}
	})
}

// plain gives what encoding/json would give.
func plain(t *testing.T, v Value) any {
	switch v.Kind {
	case Null:
		return nil
	case Bool:
		return v.Text == "true"
	case String:
		return v.Text
	case Number:
		var f float64
		if _, err := fmt.Sscan(v.Text, &f); err != nil {
			t.Fatalf("%q is no number: %v", v.Text, err)
		}
		return f + 0
	case Array:
		out := make([]any, len(v.Items))
		for i := range v.Items {
			out[i] = plain(t, v.Items[i])
		}
		return out
	}
	out := map[string]any{}
	for _, m := range v.Members {
		out[m.Name] = plain(t, m.Value)
	}
	return out
}
