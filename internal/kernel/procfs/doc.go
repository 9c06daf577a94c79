// Package procfs reads what the kernel says about a process under /proc.
//
// It is written for a caller that answers a stopped system call: each question
// costs one open, one read and one close, names are built on the stack, and
// nothing is formatted or matched with regular expressions.
//
// It is not an inventory of the machine and keeps no cache: what it returned
// was true when it was read and may be false now.
//
// What must hold: the process may die, or its number may be given to another
// one, between any two calls. So every function can fail, a partial answer is
// an error, and a caller that acts on an answer has to make sure afterwards
// that the process it asked about is still the same (SECCOMP_IOCTL_NOTIF_ID_VALID
// for a notified call, [Thread.Start] for anything else).
//
// A "tid" is the number of a thread and a "pid" that of a thread group, both as
// seen from the PID namespace of the mounted /proc.
package procfs
