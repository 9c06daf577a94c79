package policy

import (
	_ "embed"
	"errors"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// sections is the order in which a formatted document has its sections.
var sections = []string{
	"version", "network_enforcement", "filesystem_policy", "landlock", "process",
	"network_policies", "network_middlewares", "host_services", "network_capture", "sockets",
}

// Format gives a document its usual shape: sections in the order of the
// language's description, two spaces of indentation, comments kept. A document
// that is not a policy is refused with Errors. The result means the same:
// Format checks that before it returns.
func Format(src []byte) ([]byte, error) {
	before, _, err := Parse("policy", src)
	if err != nil {
		return nil, err
	}
	f, err := parser.ParseBytes(src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, doc := range f.Docs {
		if m, is := doc.Body.(*ast.MappingNode); is && !m.IsFlowStyle {
			slices.SortStableFunc(m.Values, func(a, b *ast.MappingValueNode) int {
				return slices.Index(sections, keyOf(a)) - slices.Index(sections, keyOf(b))
			})
		}
	}
	lines := strings.Split(f.String(), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " \t")
	}
	out := []byte(strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n")
	after, _, err := Parse("policy", out)
	if err != nil || !Same(*before, *after) {
		return nil, errors.New("policy: the document cannot be formatted without changing what it means; its layout is left alone")
	}
	return out, nil
}

// schema is the language as JSON schema (draft 2020-12). TestSchema holds it
// against the fields that Parse knows.
//
//go:embed schema.json
var schema []byte

// Schema is the JSON schema of a policy, for editors.
func Schema() ([]byte, error) { return slices.Clone(schema), nil }
