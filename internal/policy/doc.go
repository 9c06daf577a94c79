// Package policy is the language in which somebody writes what an agent may do:
// its types, its reader and its rules.
//
// Deliberately not here: what a rule matches (policy/match), how a decision is
// made (policy/rego), and what of it a host can enforce (confine). Nothing here
// touches the system.
//
// What must hold: a document is either understood in full or refused, with the
// line, the column and what was expected; the zero value of a field is its
// strictest.
package policy
