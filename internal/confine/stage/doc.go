// Package stage starts the agent: it runs a fixed table of system calls
// between fork and exec, so that no line of Go, no allocation and no scheduler
// stands between the walls and the program that they hold.
//
// Two processes are made. The guard is the agent's parent and reaper. It sits
// in a Landlock domain of its own, so its kill(-1) reaches the sandbox and
// nothing else, and it uses that when the agent ends or when the supervisor
// dies. The agent runs the rest of the table, in the guard's memory, and then
// execve.
//
// Deliberately not here: what the walls are. The caller hands over ready
// descriptors and a ready filter; this package knows the order only.
//
// What must hold: every step that does not return what the table says ends the
// attempt, with the name of the step; the agent keeps no descriptor but 0, 1
// and 2; the thread that called Start lives as long as the guard, because the
// kernel ties a parent-death signal to the thread that forked.
package stage
