// Package rego decides whether a program may reach a host and a port.
//
// The decision itself is egress.rego, shipped inside the program and evaluated by OPA. Go prepares what the
// module looks up: which host patterns match the wanted host ([Engine] indexes them when it is compiled) and
// which binary lists name the calling program (remembered for each program). Rego joins the two.
//
// Not here: the grammar of patterns (policy/match), names and addresses (egress), who the caller is
// (egress/identity). This package reads no file, opens no socket and has no clock but the deadline of a decision.
//
// What must hold: an error, a panic, a deadline or an undefined answer is a denial. An [Engine] is immutable for
// its callers and belongs to one generation of one policy. The module can call the handful of built-ins listed
// in module.go, and none of them reaches outside.
package rego
