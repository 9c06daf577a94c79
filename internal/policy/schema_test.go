package policy

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestSchema_eachMapping asks the reader, mapping by mapping, which fields it
// knows, by giving it one that it cannot, and holds the schema against that.
func TestSchema_eachMapping(t *testing.T) {
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	const odd = "{zzzzzzzzzzzz: 1}"
	endpoint := func(s string) string { return "network_policies: {a: {endpoints: [" + s + "]}}" }
	checked := map[string]bool{}
	for at, doc := range map[string]string{
		"":                              "zzzzzzzzzzzz: 1",
		"/properties/filesystem_policy": "filesystem_policy: " + odd,
		"/properties/landlock":          "landlock: " + odd,
		"/properties/process":           "process: " + odd,
		"/properties/network_policies/additionalProperties":                           "network_policies: {a: " + odd + "}",
		"/properties/network_policies/additionalProperties/properties/binaries/items": "network_policies: {a: {endpoints: [], binaries: [" + odd + "]}}",
		"/properties/network_middlewares/additionalProperties":                        "network_middlewares: {a: " + odd + "}",
		"/properties/network_middlewares/additionalProperties/properties/endpoints":   "network_middlewares: {a: {endpoints: " + odd + "}}",
		"/properties/host_services/items":                                             "host_services: [" + odd + "]",
		"/properties/sockets":                                                         "sockets: " + odd,
		"/$defs/match":                                                                endpoint("{rules: [{allow: " + odd + "}]}"),
		"/$defs/endpoint":                                                             endpoint(odd),
		"/$defs/endpoint/properties/rules/items":                                      endpoint("{rules: [" + odd + "]}"),
		"/$defs/endpoint/properties/json_rpc":                                         endpoint("{json_rpc: " + odd + "}"),
		"/$defs/endpoint/properties/mcp":                                              endpoint("{mcp: " + odd + "}"),
		"/$defs/endpoint/properties/credential_binding":                               endpoint("{credential_binding: " + odd + "}"),
	} {
		checked[at] = true
		node, ok := lookUp(schema, at)
		if !ok || node["additionalProperties"] != false {
			t.Errorf("schema at %q: %v, want an object without further properties", at, node["additionalProperties"])
			continue
		}
		var want []string
		for name := range node["properties"].(map[string]any) {
			want = append(want, name)
		}
		slices.Sort(want)
		if got := knownFields(t, doc); !slices.Equal(got, want) {
			t.Errorf("at %q the reader knows %v, the schema %v", at, got, want)
		}
	}
	// A middleware's config has fields that depend on the middleware: its own test holds them.
	for _, at := range objects(schema, "") {
		if !checked[at] && !strings.Contains(at, "/config") {
			t.Errorf("the object at %q is not looked at", at)
		}
	}
}

// knownFields are those that the reader names when it meets one that is not.
func knownFields(t *testing.T, doc string) []string {
	t.Helper()
	_, _, err := Parse("p.yaml", []byte(doc+"\n"))
	errs, _ := errors.AsType[Errors](err)
	for _, e := range errs {
		if _, list, ok := strings.Cut(e.Msg, `has no field "zzzzzzzzzzzz"; known are `); ok {
			return strings.Split(list, ", ")
		}
	}
	t.Fatalf("Parse(%s) = %v, want the known fields", doc, err)
	return nil
}

func lookUp(schema map[string]any, at string) (map[string]any, bool) {
	node := schema
	for name := range strings.SplitSeq(strings.TrimPrefix(at, "/"), "/") {
		if at == "" {
			break
		}
		next, ok := node[name].(map[string]any)
		if !ok {
			return nil, false
		}
		node = next
	}
	return node, true
}

// objects are the places of a schema that have properties.
func objects(node any, at string) (out []string) {
	m, ok := node.(map[string]any)
	if !ok {
		return nil
	}
	if _, has := m["properties"].(map[string]any); has {
		out = append(out, at)
	}
	for k, v := range m {
		out = append(out, objects(v, at+"/"+k)...)
	}
	return out
}
