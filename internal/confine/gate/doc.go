// Package gate answers the system calls by which a program could reach
// something outside of the sandbox: socket, connect, bind, listen and sends
// that carry an address.
//
// It is a socket broker. A socket that the agent asks for is made here and put
// into the agent's table; its twin, the same open file, stays here, filed under
// its inode, until it is connected. Each later call is done by the gate on the
// twin, from a copy of the caller's memory, so there is nothing that a second
// thread could still change. No call that is judged is ever let through after its memory
// has been looked at, and a socket that the gate did not make is refused.
//
// What follows, and must hold: no socket inside the sandbox can name a
// destination by itself. Streams are connected here. Datagram sockets do not
// exist: what asks for one gets an end of a packet pair whose other end is the
// policy DNS, and a packet pair ignores the name in a msghdr. So sendmsg needs no
// trap, and receive calls are never judged. Some of them are stopped all the same,
// to tell a resolver where its answer comes from, and then let through: they are
// allowed on every socket, whatever their arguments say.
//
// Deliberately not here: policy beyond addresses and paths (the caller's Route
// decides), what the proxy does with a connection, and logs.
package gate
