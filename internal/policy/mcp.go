package policy

import "slices"

// MCPMethods are the methods that allow_all_known_mcp_methods allows: what a client may send by the
// specification of the Model Context Protocol, 2024-11-05 to 2025-11-25, and its answers to the server's calls.
var MCPMethods = []string{
	"completion/complete",
	"initialize",
	"logging/setLevel",
	"notifications/cancelled",
	"notifications/initialized",
	"notifications/progress",
	"notifications/roots/list_changed",
	"notifications/tasks/status",
	"ping",
	"prompts/get",
	"prompts/list",
	"resources/list",
	"resources/read",
	"resources/subscribe",
	"resources/templates/list",
	"resources/unsubscribe",
	MethodResponse,
	"tasks/cancel",
	"tasks/get",
	"tasks/list",
	"tasks/result",
	"tools/call",
	"tools/list",
}

// ClosesQuery says whether every rule that allows has query_exact. A GET or DELETE
// of MCP that carries no call needs no rule, but where this holds it has no query
// beside those that rules name.
func (e *Endpoint) ClosesQuery() bool {
	return len(e.Rules) > 0 && !e.L7.MCPAllKnownMethods && !slices.ContainsFunc(e.Rules, func(r Rule) bool { return !r.Allow.QueryExact })
}
