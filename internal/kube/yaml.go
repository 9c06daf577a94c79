package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// YAML is the objects as one YAML stream. Strings that some reader of YAML
// could take for something else are quoted; text of several lines is a block,
// so that a person can read the policy in its ConfigMap.
func (o Objects) YAML() ([]byte, error) {
	var out bytes.Buffer
	for i, obj := range o {
		if i > 0 {
			out.WriteString("---\n")
		}
		raw, err := json.Marshal(obj)
		if err != nil {
			return nil, fmt.Errorf("kube: %w", err)
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		w := &yamlWriter{out: &out, in: dec}
		if err := w.value(0, "", false); err != nil {
			return nil, fmt.Errorf("kube: %w", err)
		}
	}
	return out.Bytes(), nil
}

// JSON is the objects as one List, for machines.
func (o Objects) JSON() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(list{typeMeta{"v1", "List"}, o}); err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	return out.Bytes(), nil
}

// yamlWriter turns a stream of JSON tokens into block YAML. Going through JSON
// keeps the order of fields and the names of the Kubernetes API.
type yamlWriter struct {
	out *bytes.Buffer
	in  *json.Decoder
}

// value writes one value at the given depth. key is what stands before it on
// its line: "name:" or nothing; item says that a dash stands there.
func (w *yamlWriter) value(depth int, key string, item bool) error {
	tok, err := w.in.Token()
	if err != nil {
		return err
	}
	switch tok := tok.(type) {
	case json.Delim:
		return w.collection(tok, depth, key, item)
	case string:
		w.line(key, w.text(tok, depth))
	case nil:
		w.line(key, "null")
	default: // bool, json.Number
		w.line(key, fmt.Sprint(tok))
	}
	return nil
}

func (w *yamlWriter) line(key, text string) {
	if key != "" && text != "" {
		key += " "
	}
	w.out.WriteString(key + text + "\n")
}

func (w *yamlWriter) collection(open json.Delim, depth int, key string, item bool) error {
	if !w.in.More() {
		w.line(key, map[json.Delim]string{'{': "{}", '[': "[]"}[open])
		_, err := w.in.Token()
		return err
	}
	first := item || key == "" // the first entry continues the line that is open
	if key != "" {
		w.line(key, "")
	}
	for ; w.in.More(); first = false {
		if !first || key != "" {
			w.out.WriteString(strings.Repeat("  ", depth))
		}
		if err := w.entry(open, depth); err != nil {
			return err
		}
	}
	_, err := w.in.Token()
	return err
}

func (w *yamlWriter) entry(open json.Delim, depth int) error {
	if open == '[' {
		w.out.WriteString("- ")
		return w.value(depth+1, "", true)
	}
	name, err := w.in.Token()
	if err != nil {
		return err
	}
	return w.value(depth+1, scalar(name.(string))+":", false)
}

// text is a string as a scalar, or as a literal block where it has several
// lines and nothing that a block would change.
func (w *yamlWriter) text(s string, depth int) string {
	body := strings.TrimRight(s, "\n")
	if !strings.Contains(body, "\n") || !blockSafe(s) {
		return scalar(s)
	}
	var b strings.Builder
	b.WriteString("|")
	if !strings.HasSuffix(s, "\n") {
		b.WriteString("-")
	}
	for _, line := range strings.Split(body, "\n") {
		b.WriteString("\n")
		if line != "" {
			b.WriteString(strings.Repeat("  ", max(depth, 1)) + line)
		}
	}
	return b.String()
}

// blockSafe tells whether a literal block gives back exactly these bytes to
// every reader.
func blockSafe(s string) bool {
	if strings.HasPrefix(s, " ") || strings.HasPrefix(s, "\n") || strings.HasSuffix(s, "\n\n") {
		return false
	}
	for _, line := range strings.Split(s, "\n") {
		if strings.HasSuffix(line, " ") {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r != '\n' && (!unicode.IsPrint(r) || r == utf8.RuneError)
	})
}

// plain are strings that mean a string to every reader of YAML without quotes.
var plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`)

// words mean something else than a string to some reader.
var words = regexp.MustCompile(`(?i)^(y|yes|n|no|on|off|true|false|null|nan|inf)$`)

func scalar(s string) string {
	if plain.MatchString(s) && !words.MatchString(s) {
		return s
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // a string always has a JSON form
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}
