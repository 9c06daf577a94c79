// Package jsonval reads JSON that two programs have to understand the same way.
//
// A reader of requests and the server behind it may be written in different languages. Where the grammar leaves
// them a choice, one of them can be shown something that the other does not see: the last of two members of one
// name, or a member whose name differs in case and which encoding/json takes for the one it looks for. So the
// text is refused where there is a choice: duplicate names, names of one object that differ in case only,
// invalid UTF-8, lone surrogates, a byte order mark, anything behind the value. What is left is read into a
// tree, and the text itself can be sent on: it has one meaning (RFC 8259, section 4; RFC 7493).
//
// Not here: what the members mean. The grammar is that of jsontext; this package holds it to limits.
//
// What must hold: memory is bounded by [Limits] and by the text, whatever the text says.
package jsonval
