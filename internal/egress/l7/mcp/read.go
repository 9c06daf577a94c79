package mcp

import (
	"net/http"
	"regexp"
	"strings"

	"sallyport/internal/egress/l7/jsonrpc"
	"sallyport/internal/egress/l7/jsonval"
	"sallyport/internal/policy"
)

// Options bound what is read; the zero value is the strictest.
type Options struct {
	MaxBody        int64 // bytes. Default 64 KiB
	LooseToolNames bool  // strict_tool_names: false
}

// form is what a name or a header must look like. The length is apart: counted
// repetitions are expanded when an expression is compiled, at every start.
type form struct {
	chars *regexp.Regexp
	most  int
}

func (f form) fits(s string) bool { return len(s) <= f.most && f.chars.MatchString(s) }

// strictTool is what strict_tool_names holds a tool's name to.
var strictTool = form{regexp.MustCompile(`^[A-Za-z0-9_.-]+$`), 128}

var (
	sessionID = form{regexp.MustCompile(`^[\x21-\x7e]+$`), 512}
	version   = form{regexp.MustCompile(`^20[0-9][0-9]-[01][0-9]-[0-3][0-9]$`), 10}
)

// Read returns the calls of a request, none for a GET or a DELETE. r has the method and the query, h the
// headers. The errors are *jsonval.Malformed and *jsonval.TooLarge.
func Read(r policy.Request, h http.Header, body []byte, o Options) ([]policy.Call, error) {
	if err := checkHeaders(h); err != nil {
		return nil, err
	}
	switch r.Method {
	case http.MethodPost:
	case http.MethodGet, http.MethodDelete:
		if len(body) > 0 {
			return nil, jsonval.Malformedf("an MCP %s has no body", r.Method)
		}
		return nil, nil
	default:
		return nil, jsonval.Malformedf("an MCP request is a POST, a GET or a DELETE, not %.20s", r.Method)
	}
	if _, err := jsonval.MediaType(h, "application/json"); err != nil {
		return nil, err
	}
	if err := jsonrpc.CheckQuery(r.Query); err != nil {
		return nil, err
	}
	messages, err := jsonrpc.Messages(body, jsonrpc.Options{MaxBody: o.MaxBody, Responses: true})
	if err != nil {
		return nil, err
	}
	calls := make([]policy.Call, len(messages))
	for i, m := range messages {
		if calls[i], err = call(m, o); err != nil {
			return nil, err
		}
	}
	return calls, checkRepeated(h, messages, calls)
}

func call(m jsonrpc.Message, o Options) (policy.Call, error) {
	c := m.Call()
	if m.Response {
		return c, nil
	}
	if m.Method == policy.MethodResponse {
		return c, jsonval.Malformedf("%q is no method of MCP", m.Method)
	}
	if m.Params != nil && m.Params.Kind != jsonval.Object {
		return c, jsonval.Malformedf("params of an MCP message is %v, expected an object", m.Params.Kind)
	}
	if m.Notify != strings.HasPrefix(m.Method, "notifications/") {
		return c, jsonval.Malformedf("%.80q: an MCP message is a notification if, and only if, it has no id and its method starts with notifications/", m.Method)
	}
	if m.Method != "tools/call" {
		return c, nil
	}
	name := m.Params.Get("name")
	if name == nil || name.Kind != jsonval.String {
		return c, jsonval.Malformedf("a tools/call has the name of a tool in params.name")
	}
	if err := jsonrpc.CheckName("name of the tool", name.Text, 256); err != nil {
		return c, err
	}
	if !o.LooseToolNames && !strictTool.fits(name.Text) {
		return c, jsonval.Malformedf("the name of the tool is %.80q, expected 1 to 128 letters, digits, _ . - (strict_tool_names)", name.Text)
	}
	if err := m.Params.Only("params of a tools/call", "name", "arguments", "task", "_meta"); err != nil {
		return c, err
	}
	c.Tool = name.Text
	return c, nil
}

func checkHeaders(h http.Header) error {
	for _, c := range []struct {
		name string
		form form
	}{{"Mcp-Session-Id", sessionID}, {"Mcp-Protocol-Version", version}} {
		if v := h[c.name]; len(v) > 1 || len(v) == 1 && !c.form.fits(v[0]) {
			return jsonval.Malformedf("the header %s is there %d times, or is not of its form", c.name, len(v))
		}
	}
	return nil
}

// checkRepeated compares the headers that repeat parts of the body, by which a server may choose what to run.
func checkRepeated(h http.Header, messages []jsonrpc.Message, calls []policy.Call) error {
	method, name := h["Mcp-Method"], h["Mcp-Name"]
	if len(method) == 0 && len(name) == 0 {
		return nil
	}
	if len(method) > 1 || len(name) > 1 || len(calls) != 1 || messages[0].Response {
		return jsonval.Malformedf("the headers Mcp-Method and Mcp-Name belong to one call")
	}
	if len(method) == 1 && method[0] != calls[0].Method {
		return jsonval.Malformedf("the header Mcp-Method is %.80q and the body calls %.80q", method[0], calls[0].Method)
	}
	if len(name) == 0 {
		return nil
	}
	member := "name"
	switch family, _, _ := strings.Cut(calls[0].Method, "/"); family {
	case "resources":
		member = "uri"
	case "tasks":
		member = "taskId"
	}
	if v := messages[0].Params.Get(member); v == nil || v.Kind != jsonval.String || v.Text != name[0] {
		return jsonval.Malformedf("the header Mcp-Name is %.80q, which is not params.%s of the body", name[0], member)
	}
	return nil
}
