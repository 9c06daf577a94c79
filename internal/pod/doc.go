// Package pod is what a container of a pod starts: it reads a configuration,
// refuses what it does not understand, runs the supervisor around the agent and
// tells the platform how that goes, by exit status, termination message, log
// and probes.
//
// Deliberately not here: the fence (supervisor and below), and the objects that
// describe a pod (kube).
//
// What must hold: a refusal ends with status 125 and one line that says what is
// missing and what to do, on standard error and in the termination message;
// nothing of the agent runs before every part of the configuration was found
// good; standard error is the supervisor's alone, so that no line of the agent
// can be taken for one of ours; what belongs to the supervisor is out of the
// policy's reach, because both are one user.
package pod
