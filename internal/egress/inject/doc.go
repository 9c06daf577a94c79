// Package inject puts secrets where placeholders stand: after the verdict, as the
// last thing before a request is sent, in the places that a credential's
// provider declares, for the host, port and path that it is bound to. It takes
// them out of the answers of those hosts again.
//
// Deliberately not here: where secrets come from (secret/source), which keys
// exist (policy/profile), who may send what (policy/rego), and the connection
// itself.
//
// What must hold: a placeholder in any other place, or on its way to any other
// host, stops the request before a byte of it is sent; a request either has all
// of its placeholders replaced or is not sent; no error text holds a secret.
package inject
