// Package proxy is the only way out of a sandbox. Every way in, whether a
// CONNECT, an HTTP request or a connection that was captured, becomes an intent
// and walks one pipeline: who, may, where, dial, relay, event.
//
// Deliberately not here: the listener and who connected to it (the supervisor,
// egress/identity), what the policy says (a Decider), and reading what is inside
// a tunnel (an Inspector).
//
// What must hold: a name is decided upon before it is resolved; only addresses
// that were judged are dialled; a request that two programs could read in two
// ways goes nowhere; every buffer, wait and table has a bound; every verdict is
// an event.
package proxy
