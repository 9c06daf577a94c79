// Package http gives the target of an HTTP request the one form in which it is
// judged and sent: path and query of RFC 3986, with everything resolved that
// two programs could read in two ways, or an error.
//
// Deliberately not here: message framing, header fields, and what the rules say.
//
// What must hold: a canonical target is its own canonical form; decoded, it
// means what the target meant that was read; nothing in it is decoded further
// by a server that decodes once.
package http
