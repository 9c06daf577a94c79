package inference

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ask is the body of a request. It is sent as it was understood: each field
// once, under the name by which it was judged.
type ask struct {
	fields map[string]json.RawMessage
	model  string
}

// judged are the fields that are looked at. A reader that has no care for case
// would take another spelling for one of them.
var judged = []string{"model", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"}

// parse reads a body. A field that is there twice, or in another spelling, is an
// error: two programs would read it in two ways.
func parse(b []byte) (*ask, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("the body is not a JSON object")
	}
	a := &ask{fields: map[string]json.RawMessage{}}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		var value json.RawMessage
		if err == nil && ok {
			err = d.Decode(&value)
		}
		if err != nil || !ok {
			return nil, errors.New("the body is not valid JSON")
		}
		if _, twice := a.fields[name]; twice {
			return nil, fmt.Errorf("the body has the field %q twice", clip(name))
		}
		for _, j := range judged {
			if name != j && strings.EqualFold(name, j) {
				return nil, fmt.Errorf("the body has the field %q, which could be taken for %q", clip(name), j)
			}
		}
		a.fields[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("the body is not valid JSON")
	}
	if d.More() || len(bytes.TrimSpace(b[d.InputOffset():])) > 0 {
		return nil, errors.New("the body goes on after its JSON object")
	}
	if err := json.Unmarshal(a.fields["model"], &a.model); err != nil || a.model == "" {
		return nil, errors.New("the body names no model")
	}
	return a, nil
}

func (a *ask) use(model string) {
	a.fields["model"], _ = json.Marshal(model) // a string can be encoded
}

// limit caps what a call may generate; most is 0 for no cap.
func (a *ask) limit(what call, most int64) error {
	if most == 0 || !what.generates {
		return nil
	}
	for _, name := range []string{"n", "best_of"} {
		v, given, err := a.number(name)
		if err != nil || given && v != 1 {
			return fmt.Errorf("%s must be 1, because what is generated is limited to %d tokens", name, most)
		}
	}
	name := what.limit
	if _, older := a.fields[what.also]; older && what.also != "" {
		if _, both := a.fields[name]; both {
			return fmt.Errorf("give %s or %s, not both", name, what.also)
		}
		name = what.also
	}
	v, given, err := a.number(name)
	if err != nil {
		return err
	}
	if !given || v > most {
		a.fields[name] = json.RawMessage(strconv.FormatInt(most, 10))
	}
	return nil
}

// number reads a field that holds a whole number above 0.
func (a *ask) number(name string) (v int64, given bool, err error) {
	raw, given := a.fields[name]
	if !given || string(raw) == "null" {
		return 0, false, nil
	}
	v, err = strconv.ParseInt(string(raw), 10, 64)
	if err != nil || v < 1 {
		return 0, true, fmt.Errorf("%s is not a whole number above 0", name)
	}
	return v, true, nil
}

func (a *ask) encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(a.fields) //nolint:errcheck // raw messages were decoded before
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
