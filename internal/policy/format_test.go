package policy

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestFormatKeepsMeaningAndComments(t *testing.T) {
	src := "network_capture: off   # no capture\nversion: 1\nsockets:\n      bind: [3000]\n"
	got, err := Format([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(got), "version: 1\n") || !strings.Contains(string(got), "# no capture") {
		t.Errorf("Format =\n%s", got)
	}
	again, err := Format(got)
	if err != nil || string(again) != string(got) {
		t.Errorf("Format is not stable: %v\n%s", err, again)
	}
	full, err := Format([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(example, "#") - strings.Count(string(full), "#"); n != 0 {
		t.Errorf("%d comments were lost:\n%s", n, full)
	}
	if _, err := Format([]byte("version: 2\n")); err == nil {
		t.Error("a document that is no policy was formatted")
	}
}

// TestSchema holds the schema against the reader: each field that a mapping of
// the reader knows is in the schema, and the other way round.
func TestSchema(t *testing.T) {
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	inSchema := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch x := v.(type) {
		case map[string]any:
			if p, is := x["properties"].(map[string]any); is {
				for k := range p {
					inSchema[k] = true
				}
			}
			for _, c := range x {
				walk(c)
			}
		case []any:
			for _, c := range x {
				walk(c)
			}
		}
	}
	walk(s)
	inReader := map[string]bool{}
	key := regexp.MustCompile(`^\s*"([a-z_]+)": +(d\.|func|who|paths|hosts)|fields\{"([a-z_]+)":`)
	for _, f := range []string{"parse.go", "parse_endpoint.go", "middleware.go"} {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(src), "\n") {
			for _, m := range key.FindAllStringSubmatch(line, -1) {
				inReader[m[1]+m[3]] = true
			}
		}
	}
	a, b2 := slices.Sorted(maps.Keys(inSchema)), slices.Sorted(maps.Keys(inReader))
	if !slices.Equal(a, b2) {
		t.Errorf("fields of the schema: %v\nfields of the reader: %v", a, b2)
	}
}
