// Package testkit is what tests need around them: surroundings that a test must
// earn the right to skip without, a process of its own for what cannot be
// undone, a network of its own with public-looking addresses, another user, and
// a check that nothing is left behind.
//
// Deliberately not here: anything that a program in cmd links; fakes of rooms,
// which live beside the rooms.
//
// What must hold: a test is skipped only when the kernel is older than the
// feature or the test said that it needs root; on a newer kernel, and always
// with SALLYPORT_REQUIRE=all, a missing requirement is a failure.
package testkit
