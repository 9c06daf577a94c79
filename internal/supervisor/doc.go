// Package supervisor runs one sandbox: it puts the rooms below together in the
// one order that is safe, keeps them going while the agent lives, and takes
// them down.
//
// Deliberately not here: how a wall is built (confine), what may pass (policy,
// egress), and the words on the screen (cli).
//
// What must hold: nothing of the agent runs before the proxy listens, the gate
// is ready to answer and the supervisor itself is hardened; whatever fails
// before that leaves nothing behind; when Run returns, nothing of the sandbox
// is alive.
package supervisor
