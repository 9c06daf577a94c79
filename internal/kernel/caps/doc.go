// Package caps reads the capability sets of this process, chooses who it
// becomes when root started it, and gives root up for good.
//
// Deliberately not here: keeping some capabilities, and the identity of any
// process but this one. The init stage of the agent has no Go runtime and makes
// its own system calls.
//
// What must hold: [DropTo] and [Shed] either leave every thread of the process
// without any capability, unable to get one back, and have checked both with
// the kernel, or return an error, after which the process is good for nothing
// but to end.
package caps
