// Package inspect holds what TLS termination needs: the authority of one
// session, which vouches for any host towards the agent, and the verification
// of servers, which stands in for the agent's own.
//
// Deliberately not here: when a connection is terminated and what is done with
// what is inside (egress/proxy), and how the agent comes to trust the authority
// (the supervisor).
//
// What must hold: the authority's key and those of its certificates live in
// memory only and end with the session; no certificate is issued for a name
// that was not asked for; a server is accepted only under the name that was
// decided on, by the system's roots and those that a person has added.
package inspect
