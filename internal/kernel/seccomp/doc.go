// Package seccomp compiles a table of rules into a filter program for system
// calls.
//
// Deliberately not here: which calls are refused and why (confine holds that
// table), and answering notified calls (notify).
//
// What must hold:
//   - The architecture is judged before the number: a call that comes through a
//     foreign entry, such as int 0x80 on amd64, kills the process, and x32
//     numbers do not exist.
//   - An argument that the kernel takes as an int is compared in its low 32 bits only,
//     because the kernel throws the others away; a pointer or a long in all 64. Each
//     condition says which by the way it is made: [Int] or [Word].
//   - The first rule that matches decides. A rule that no call can reach is an error.
package seccomp
