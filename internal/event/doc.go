// Package event holds the security events that Sallyport emits: six classes of
// OCSF 1.8, their JSON lines, and the one line that a person reads.
//
// Deliberately not here: who decides and who listens. Rooms that see something
// build an Event with one of the constructors and give it to a Sink; the
// supervisor stamps it with its Session and hands it to a Writer. Plumbing is
// not an event: that is a log line.
//
// What must hold: nothing an untrusted program chose reaches a terminal
// unescaped or a file unbounded; query values, credentials in URLs and
// secret-looking arguments are replaced before an Event exists; an event that
// could not be written is an error that stays.
package event
