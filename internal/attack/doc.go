// Package attack tries to get out of the sandbox, on this host, now. It is what
// `sallyport attack` runs and prints.
//
// Each case is one row of a table: what is tried, what it needs of the kernel,
// which wall should stop it, and with which errno. The same code runs three
// times: unsandboxed, as the positive control that shows that the attack works
// where nothing stops it; inside, through the program's own entry point, as the
// agent; and beside it an allowed twin runs inside, which shows that not simply
// everything is broken. What the attack says of itself is not believed alone:
// servers, files and a victim process outside of the sandbox are looked at too.
//
// Deliberately not here: the walls. This package knows how the fence is
// attacked, and nothing of how it is built.
//
// What must hold: a case whose control or twin fails is broken, and broken is
// red; a skip names what this kernel lacks; nothing is left behind on the host;
// an attack that succeeds does no harm to anything that the suite did not make.
package attack
