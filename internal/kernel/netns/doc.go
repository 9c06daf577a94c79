// Package netns makes a network namespace for one sandbox and a veth pair into
// it.
//
// The namespace has no name: nothing is bound below /run/netns. It is held by
// the threads of this process that live in it and by the agent's processes, and
// the kernel takes it down with the last of them, and with it both ends of the
// pair and every address, route and rule. A supervisor that is killed leaves
// nothing behind, and needs no privilege once the namespace is made.
//
// Deliberately not here: packet rules (nft), who may use the namespace (the
// caller starts the agent on one of its threads), and namespaces that somebody
// else made.
//
// What must hold: a thread that has entered the namespace never runs anything
// but what was given to it, and ends with it, so no other part of this process
// ever makes a socket there by chance; the name of the host's end is the claim
// on its address range, because the kernel gives a name away once.
package netns
