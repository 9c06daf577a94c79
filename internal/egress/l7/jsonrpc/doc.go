// Package jsonrpc reads the calls of a JSON-RPC 2.0 request, single or batch.
//
// What is found is what the server is asked to do: all calls of a batch, notifications included, because a
// server runs a call that wants no answer like any other. The text is refused where two readers could find
// different calls in it (see package jsonval), where it has members that the specification does not know, and
// where it is no call at all. What is not refused can be sent on as it is.
//
// Not here: which calls are allowed (policy/rego), and MCP's rules about them (package mcp).
//
// Source: JSON-RPC 2.0 Specification, sections 4 to 6.
package jsonrpc
