package jsonval

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits bound what a text may make a reader hold. Zero means the default.
type Limits struct {
	Depth  int // of nested arrays and objects. Default 64
	Values int // in all, members' names not counted. Default 65,536
}

// Read reads one value and the end of the text behind it.
//
// Numbers are given one form: an integer of at most 21 characters is left as it is, every other number is
// written as RFC 8785 writes it, so that 1.0 and 10e-1 are 1. A number beyond the range of a float64 is
// refused: readers differ about it.
//
// The errors are *Malformed and *TooLarge.
func Read(text []byte, l Limits) (*Value, error) {
	if l.Depth <= 0 {
		l.Depth = 64
	}
	if l.Values <= 0 {
		l.Values = 1 << 16
	}
	r := reader{dec: jsontext.NewDecoder(bytes.NewBuffer(text)), Limits: l}
	v, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, Malformedf("there is text behind the JSON value")
	}
	return &v, nil
}

type reader struct {
	dec *jsontext.Decoder
	Limits
	values int
}

func (r *reader) value(depth int) (Value, error) {
	tok, err := r.dec.ReadToken()
	if err != nil {
		return Value{}, malformed(err)
	}
	if r.values++; r.values > r.Values {
		return Value{}, &TooLarge{"JSON values", int64(r.Values)}
	}
	switch kind := tok.Kind(); kind {
	case '"':
		return Value{Kind: String, Text: tok.String()}, nil
	case '0':
		text, err := number(tok.String())
		return Value{Kind: Number, Text: text}, err
	case 't', 'f':
		return Value{Kind: Bool, Text: tok.String()}, nil
	case 'n':
		return Value{Kind: Null, Text: "null"}, nil
	case '[', '{':
		if depth >= r.Depth {
			return Value{}, &TooLarge{"levels of JSON", int64(r.Depth)}
		}
		if kind == '[' {
			return r.array(depth + 1)
		}
		return r.object(depth + 1)
	}
	return Value{}, Malformedf("not JSON: a %q where a value should be", tok.Kind())
}

func (r *reader) array(depth int) (Value, error) {
	out := Value{Kind: Array}
	for r.dec.PeekKind() != ']' {
		v, err := r.value(depth)
		if err != nil {
			return Value{}, err
		}
		out.Items = append(out.Items, v)
	}
	_, err := r.dec.ReadToken()
	return out, malformed(err)
}

func (r *reader) object(depth int) (Value, error) {
	out := Value{Kind: Object}
	seen := map[string]string{}
	for r.dec.PeekKind() != '}' {
		tok, err := r.dec.ReadToken()
		if err != nil {
			return Value{}, malformed(err)
		}
		name := tok.String()
		if other, taken := seen[fold(name)]; taken {
			return Value{}, Malformedf("the names %.80q and %.80q of one JSON object differ in case only", other, name)
		}
		seen[fold(name)] = name
		v, err := r.value(depth)
		if err != nil {
			return Value{}, err
		}
		out.Members = append(out.Members, Member{name, v})
	}
	_, err := r.dec.ReadToken()
	return out, malformed(err)
}

func malformed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Malformedf("not JSON: it ends early")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return Malformedf("a name occurs twice in one JSON object")
	}
	return Malformedf("not JSON: %s", clip(err.Error(), 160))
}

// number gives the one form of a number's literal.
func number(literal string) (string, error) {
	if !strings.ContainsAny(literal, ".eE") && literal != "-0" && len(literal) <= 21 {
		return literal, nil
	}
	f, err := strconv.ParseFloat(literal, 64)
	if err != nil {
		return "", Malformedf("the number %.40s is out of range", literal)
	}
	return string(jsontext.AppendFloat(nil, f+0, 64)), nil
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}
