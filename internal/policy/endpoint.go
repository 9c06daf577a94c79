package policy

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// NetworkPolicy lets some programs reach some endpoints.
type NetworkPolicy struct {
	Key       string // its key in network_policies
	Name      string // what people call it; the key, unless the document says otherwise
	Endpoints []Endpoint
	Binaries  []Binary // matched against the executable and its ancestors; none matches nothing
	Line      int
}

// Binary names executables by a glob over path segments.
type Binary struct {
	Path string
	Line int
}

// Protocol is how the proxy reads a connection.
type Protocol string

// The protocols. Raw is the default: the bytes are not read.
const (
	Raw       Protocol = ""
	TCP       Protocol = "tcp"
	REST      Protocol = "rest"
	WebSocket Protocol = "websocket"
	GraphQL   Protocol = "graphql"
	JSONRPC   Protocol = "json-rpc"
	MCP       Protocol = "mcp"
)

// Endpoint is one destination.
type Endpoint struct {
	Host        string   // canonical pattern; empty with AllowedIPs only
	Ports       []uint16 // at least one
	Path        string   // selects among endpoints of one host and port; empty: all
	Protocol    Protocol
	TLSSkip     bool // tls: skip, an opaque tunnel
	Audit       bool // enforcement: audit; the zero value enforces
	Access      string
	Rules       []Rule
	DenyRules   []Match
	AllowedIPs  []netip.Prefix
	PinRefresh  bool // pin: refresh; the zero value freezes addresses for the session
	RelayDirect bool // relay: direct

	L7   L7 // how requests are read and what is done to them
	Line int
}

// L7 are the settings of inspected endpoints.
type L7 struct {
	AllowEncodedSlash            bool
	WebSocketCredentialRewrite   bool
	RequestBodyCredentialRewrite bool
	AllowUninspectedCredentials  bool
	PersistedQueries             string // "deny", or "allow_registered"
	RegisteredQueries            map[string]Match
	GraphQLMaxBody               int64 // bytes; 0: the default
	JSONRPCMaxBody               int64
	MCPMaxBody                   int64
	MCPLooseToolNames            bool // strict_tool_names: false
	MCPAllKnownMethods           bool
	CredentialSigning            string
	SigningService               string
	SigningRegion                string
	CredentialProvider           string
}

// Rule allows what it matches.
type Rule struct {
	Allow Match
	Line  int
}

// Match selects requests. An empty field matches everything that has one.
type Match struct {
	Method, Path  string
	Query         map[string][]string // any of the globs
	QueryExact    bool                // no other keys than those of Query; of rules that allow only
	OperationType string
	OperationName string
	Fields        []string
	Tool          []string
	Params        map[string][]string
	Line          int
}

// AboutOperations says whether a match is about GraphQL operations.
func (m Match) AboutOperations() bool {
	return m.OperationType+m.OperationName != "" || len(m.Fields) > 0
}

// OfQuery is m for requests whose query has these keys with these values, and no
// other key. Where the language cannot name each value of a key, or "*" is one, the
// match takes any. ok is false where it cannot name a key: that would be written as
// another, or be none that a person can read.
func (m Match) OfQuery(query map[string][]string) (_ Match, ok bool) {
	m.QueryExact = true
	for key, values := range query {
		if key == "" || len(values) == 0 || !plain(key) {
			return m, false
		}
		if m.Query == nil {
			m.Query = map[string][]string{}
		}
		m.Query[key] = slices.Compact(slices.Sorted(slices.Values(values)))
		if len(m.Query[key]) > maxGlobs || slices.ContainsFunc(values, func(v string) bool { return !exact(v) }) {
			m.Query[key] = []string{"*"}
		}
	}
	return m, true
}

// OfOperation is m for GraphQL operations of this type and name, with some of these
// root fields. One without a name is matched by any name. ok is false where the
// language cannot name it.
func (m Match) OfOperation(kind, name string, fields []string) (_ Match, ok bool) {
	m.OperationType, m.OperationName, m.Fields = kind, name, slices.Compact(slices.Sorted(slices.Values(fields)))
	return m, kind != "" && exact(name) && len(m.Fields) > 0 && len(m.Fields) <= maxGlobs && !slices.ContainsFunc(m.Fields, func(f string) bool { return !exact(f) })
}

// OfCall is m for JSON-RPC calls of a method, and of a tool where MCP has one. ok is
// false where the language cannot name it.
func (m Match) OfCall(method, tool string) (_ Match, ok bool) {
	m.Method = method
	if tool != "" {
		m.Tool = []string{tool}
	}
	return m, method != "" && exact(method) && exact(tool)
}

// exact tells that a text as a pattern means itself alone.
func exact(s string) bool { return plain(s) && !strings.ContainsAny(s, "*?") }

// Inspected says whether what passes an endpoint is read.
func (e *Endpoint) Inspected() bool { return e.Protocol != Raw && e.Protocol != TCP }

// maxGlobs is how many patterns one field takes.
const maxGlobs = 256

// plain tells that a text stands in a document as itself and fits a key.
func plain(s string) bool {
	odd := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	return len(s) <= 128 && utf8.ValidString(s) && !strings.ContainsFunc(s, odd)
}
