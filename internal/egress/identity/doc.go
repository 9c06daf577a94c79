// Package identity knows which program made a connection: its executable, what
// is in it, and which programs started it.
//
// The gate opens a record while the caller is stopped in connect, and books it
// under the connection's local address; whoever accepts the connection looks it
// up there. Nothing is guessed afterwards from tables of sockets.
//
// Deliberately not here: whether a program may connect (policy), and arguments,
// names and environments of processes, which a process chooses itself.
//
// What must hold: an error at any point means that the caller is not known and
// is refused. The first content seen under a path is the only one for the
// session. A program that has no path that leads to it, or that is run by naming
// the loader, never has the name of an ordinary file.
//
// An identity says which program it is and not what it was made to do: code can
// be brought into an allowed program by its user, and a process can execute an
// allowed program after it has started others. So this is attribution, and the
// boundary is elsewhere.
package identity
