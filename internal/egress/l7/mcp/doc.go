// Package mcp reads requests of the Model Context Protocol's Streamable HTTP transport.
//
// A POST carries JSON-RPC messages: calls, notifications, and answers to the server's own calls. A GET opens the
// stream of the server's messages and a DELETE ends the session; neither asks the server to do anything else.
// A tools/call names its tool, which rules select by name, and so does the header Mcp-Name of later versions of
// the protocol: what a header repeats must be what the body says.
//
// Not here: JSON-RPC itself (package jsonrpc), which calls are allowed (policy/rego), the server's messages.
//
// What must hold: a tools/call has a tool's name or is refused, also as a notification, which the protocol does
// not know and a server may run all the same.
//
// Source: Model Context Protocol 2025-11-25, basic/transports and server/tools.
package mcp
