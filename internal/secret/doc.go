// Package secret holds what must not be seen: values that print as a word, and
// the placeholders that stand for them where an agent looks.
//
// Deliberately not here: where a secret comes from (secret/source), what its
// placeholder looks like for which service (policy/profile), and where it may go
// (egress/inject).
//
// What must hold: no verb of fmt, no encoder and no logger shows a Value; a
// Value can be put into a header as it is; a placeholder says nothing about its
// secret or about another placeholder.
package secret
