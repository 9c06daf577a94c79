// Package landlock builds Landlock rulesets and knows which rights each version
// of the kernel's interface has.
//
// A finished ruleset is a descriptor. Whoever is to be held by it installs it
// with one system call, landlock_restrict_self, which is why nothing here
// restricts the caller, [RestrictThread] for tests and probes excepted. What is
// granted to whom is not decided here either.
//
// What must hold: a right that the kernel does not know is never dropped in
// silence. [Create] refuses it, and the caller who wants less asks for less,
// with [FilesOf], [NetworkOf] and [ScopesOf].
//
// Landlock rules only take away. Two things that it does not cover are easily
// overlooked: a descriptor that is open already, and every right that a ruleset
// does not handle, with the exception of [Refer], which is always handled.
package landlock
