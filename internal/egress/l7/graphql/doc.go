// Package graphql reads the operations that a GraphQL request would run.
//
// A request is a GET with its parts in the URL's query, a POST with a JSON object or an array of them, or a
// message of one of the two WebSocket subprotocols. Of a document with several operations it is the named one
// that runs. Its root fields are told by their real names, with fragments resolved and aliases left out:
// directives are not evaluated, so a field that @skip leaves out counts.
//
// Servers differ about what is not in the specification, so all of that is refused: parts in both the URL and
// the body, two operations or fragments of one name, members that are not known, uploads (multipart), queries by
// an id that is no hash. A persisted query without its text is reported by its hash; with its text, the hash
// must be the text's.
//
// Not here: which operations are allowed and which hashes are registered (policy/rego), the schema. So a root
// field's type is not known, and variables are not looked at.
//
// Source: GraphQL specification, October 2021 and September 2025, sections 2, 5.2, 5.5 and 6.1;
// GraphQL over HTTP, draft; graphql-transport-ws (enisdenjo/graphql-ws, PROTOCOL.md);
// graphql-ws (apollographql/subscriptions-transport-ws, PROTOCOL.md).
package graphql
