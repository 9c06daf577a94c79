package policy

// Request is what a reader found in one request of an inspected connection, in
// canonical form: what rules are matched against, and nothing else of it. The
// request that is sent on is made from it.
type Request struct {
	Method string              // HTTP method, upper case; MethodText for a text message of a WebSocket client
	Path   string              // canonical, without the query
	Query  map[string][]string // decoded

	Operations []Operation // of a GraphQL request; each must be allowed
	Calls      []Call      // of a JSON-RPC or MCP request; each of a batch must be allowed. An MCP GET or DELETE has none
}

// MethodText is the method of a text message that a WebSocket client sends.
const MethodText = "WEBSOCKET_TEXT"

// MethodResponse is the method of a Call that is none: a client's answer to a
// call of an MCP server (a ping, a question to the user).
const MethodResponse = "response"

// Operation is one GraphQL operation that a request would run.
type Operation struct {
	Type      string   // query, mutation or subscription
	Name      string   // empty if it has none
	Fields    []string // root fields by their real names, fragments resolved
	Persisted string   // hash of a persisted query that the request names instead of a text
}

// Call is one JSON-RPC call.
type Call struct {
	Method string
	Tool   string            // of an MCP tools/call
	Params map[string]string // scalars of params by dotted name, as text; of an MCP tools/call, arguments.NAME and so on
}
