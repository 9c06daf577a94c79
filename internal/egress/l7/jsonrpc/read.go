package jsonrpc

import (
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

// Options bound what is read. Zero means the default.
type Options struct {
	MaxBody   int64 // bytes. Default 64 KiB
	MaxBatch  int   // calls. Default 64
	Responses bool  // whether a client may answer calls of the server
}

const (
	maxMethod = 256     // bytes of a method's name
	maxNames  = 4 << 20 // bytes of the names of all scalars of a body: each has those of what it is in
)

// Message is one message of a request.
type Message struct {
	Method   string
	Params   *jsonval.Value // an array or object; nil if there are none
	Notify   bool           // it has no id and wants no answer
	Response bool           // an answer to a call of the server; it has none of the above

	scalars map[string]string // of Params
}

// Read returns the calls of a request: more than one only in a batch, never none. r has the method and the
// query, h the headers. The errors are *jsonval.Malformed and *jsonval.TooLarge.
func Read(r policy.Request, h http.Header, body []byte, o Options) ([]policy.Call, error) {
	if r.Method != http.MethodPost {
		return nil, jsonval.Malformedf("a JSON-RPC request is sent by POST, not by %.20s", r.Method)
	}
	if _, err := jsonval.MediaType(h, "application/json", "application/json-rpc", "application/jsonrequest"); err != nil {
		return nil, err
	}
	if err := CheckQuery(r.Query); err != nil {
		return nil, err
	}
	messages, err := Messages(body, o)
	if err != nil {
		return nil, err
	}
	calls := make([]policy.Call, len(messages))
	for i, m := range messages {
		calls[i] = m.Call()
	}
	return calls, nil
}

// CheckQuery refuses a URL query that could be taken for a call: there are servers that read calls there.
func CheckQuery(query map[string][]string) error {
	for name := range query {
		for _, part := range []string{"jsonrpc", "method", "params"} {
			if name == part || jsonval.Looks(name, part) != "" {
				return jsonval.Malformedf("the URL's query has %.80q, and the body has the call", name)
			}
		}
	}
	return nil
}

// Messages reads a body.
func Messages(body []byte, o Options) ([]Message, error) {
	if o.MaxBody <= 0 {
		o.MaxBody = 64 << 10
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = 64
	}
	if int64(len(body)) > o.MaxBody {
		return nil, &jsonval.TooLarge{What: "bytes of JSON-RPC", Limit: o.MaxBody}
	}
	batch, err := jsonval.Batch(body, "JSON-RPC", "calls", o.MaxBatch)
	if err != nil {
		return nil, err
	}
	messages := make([]Message, len(batch))
	names := names{left: maxNames}
	for i := range batch {
		if messages[i], err = message(&batch[i], o); err != nil {
			return nil, err
		}
		if messages[i].scalars, err = names.of(messages[i].Params); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

func message(v *jsonval.Value, o Options) (Message, error) {
	if v.Kind != jsonval.Object {
		return Message{}, jsonval.Malformedf("a JSON-RPC message is an object, not %v", v.Kind)
	}
	if version := v.Get("jsonrpc"); version == nil || version.Kind != jsonval.String || version.Text != "2.0" {
		return Message{}, jsonval.Malformedf(`a JSON-RPC message has "jsonrpc": "2.0"`)
	}
	id := v.Get("id")
	if id != nil && (id.Kind == jsonval.Bool || id.Kind == jsonval.Array || id.Kind == jsonval.Object) {
		return Message{}, jsonval.Malformedf("the id of a JSON-RPC message is a string or a number, not %v", id.Kind)
	}
	if v.Get("method") == nil {
		return response(v, o)
	}
	if err := v.Only("a JSON-RPC request", "jsonrpc", "method", "params", "id"); err != nil {
		return Message{}, err
	}
	m := Message{Params: v.Get("params"), Notify: id == nil}
	if m.Params != nil && m.Params.Kind != jsonval.Array && m.Params.Kind != jsonval.Object {
		return Message{}, jsonval.Malformedf("params is %v, expected an object or an array", m.Params.Kind)
	}
	var err error
	if m.Method, err = v.String("method"); err != nil {
		return Message{}, err
	}
	return m, CheckName("method", m.Method, maxMethod)
}

// CheckName refuses a name that is empty, longer than max bytes, or has a character that cannot be seen: a
// server that cuts it off there, or trims it, would take it for another one.
func CheckName(what, name string, max int) error {
	if name == "" || len(name) > max {
		return jsonval.Malformedf("the %s has %d bytes, expected 1 to %d", what, len(name), max)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) }); i >= 0 || strings.TrimSpace(name) != name {
		return jsonval.Malformedf("the %s %.80q has a character that cannot be seen", what, name)
	}
	return nil
}

func response(v *jsonval.Value, o Options) (Message, error) {
	if !o.Responses {
		return Message{}, jsonval.Malformedf("a JSON-RPC request has a method; answers are not sent by a client")
	}
	if err := v.Only("a JSON-RPC answer", "jsonrpc", "result", "error", "id"); err != nil {
		return Message{}, err
	}
	if v.Get("id") == nil || (v.Get("result") == nil) == (v.Get("error") == nil) {
		return Message{}, jsonval.Malformedf("a JSON-RPC answer has an id, and a result or an error")
	}
	return Message{Response: true}, nil
}

// Call gives the message as rules see it. Every scalar of params has a name: its members' names and its
// places in arrays, joined by dots. A dot or a backslash in a member's name has a backslash before it, so that
// no two scalars share a name.
func (m Message) Call() policy.Call {
	c := policy.Call{Method: m.Method, Params: m.scalars}
	if m.Response {
		c.Method = policy.MethodResponse
	}
	return c
}

var dots = strings.NewReplacer(`\`, `\\`, `.`, `\.`)

// names gives scalars their names, as long as there are bytes left for them.
type names struct{ left int }

func (n *names) of(params *jsonval.Value) (map[string]string, error) {
	to := map[string]string{}
	if params != nil {
		n.add(to, "", *params)
	}
	if n.left < 0 {
		return nil, &jsonval.TooLarge{What: "bytes of names of params", Limit: maxNames}
	}
	return to, nil
}

// add names what is in v: prefix is the name of v and a dot behind it, and empty for params itself, so that a
// member whose name is empty is not taken for the object that it is in.
func (n *names) add(to map[string]string, prefix string, v jsonval.Value) {
	if n.left -= len(prefix); n.left < 0 {
		return
	}
	switch v.Kind {
	case jsonval.Array:
		for i := 0; i < len(v.Items) && n.left >= 0; i++ {
			n.add(to, prefix+strconv.Itoa(i)+".", v.Items[i])
		}
	case jsonval.Object:
		for i := 0; i < len(v.Members) && n.left >= 0; i++ {
			m := &v.Members[i]
			n.add(to, prefix+dots.Replace(m.Name)+".", m.Value)
		}
	default:
		to[strings.TrimSuffix(prefix, ".")] = v.Text
	}
}
