// Package address knows which addresses a connection may go to, and reads the
// host and port that a client names.
//
// Deliberately not here: names and patterns (policy/match), resolving, and
// dialling. Nothing here looks at this host; whether an address is one of its
// own is for the one who dials.
//
// What must hold: an address that reaches the host itself, its link or a cloud's
// metadata service is refused whatever a policy says, in every notation that
// carries an IPv4 address inside an IPv6 one; a private address is refused
// unless a person listed it; what cannot be read in exactly one way is an error.
package address
