// Package cli is the command line: one file per command, each with its flags,
// its help text and the few lines that call the room which does the work.
//
// Deliberately not here: any decision about what is allowed and any system
// call that confines; a command that grows logic moves it to the room whose
// noun it is.
//
// What must hold: data goes to stdout and words go to stderr behind the prefix
// "sallyport:"; under run, stdout is the agent's alone; a table has a --json
// twin whose field names are stable; exit status 2 is a usage error, 125 our
// own refusal under run, 126 and 127 what a shell would say.
package cli
