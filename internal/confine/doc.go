// Package confine turns a policy and the facts of a host into a plan, and the
// plan into a running, confined program.
//
// Build is pure: the same policy and facts give the same plan on every machine,
// and the plan can be printed, compared and argued about. Apply is the only
// function that touches the kernel.
//
// Deliberately not here: what happens behind the proxy (egress), and what a
// policy may say (policy).
//
// What must hold: a wall that is missing is either refused or named in the
// report with the hole that it leaves; the last wall of a way out is never
// missing; the order of the walls is that of the init stage (confine/stage).
package confine
