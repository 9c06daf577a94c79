// Package dns is the sandbox's only name server. It gives each name that the
// policy could allow a synthetic address, and remembers which: a connection to
// that address means a connection to that name.
//
// Deliberately not here: sockets of the sandbox (the supervisor hands over TCP
// connections and datagrams), the verdict on a connection, and real resolving,
// which the proxy does after its verdict.
//
// What must hold: no query of the sandbox ever causes a packet, so no label can
// carry anything out; a name that no rule could allow does not exist; an address
// means one name for as long as an answer with it may be cached.
package dns
