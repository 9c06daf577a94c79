// Package middleware runs the middlewares of a policy over messages that its rules have allowed: requests,
// answers, and text messages of WebSocket clients.
//
// They run in the order of the policy, before credentials are put in and after they are taken out, so none of
// them sees a secret that the agent does not have. One can change a message or refuse it. One that fails, takes
// too long or cannot see a message because it is too long or encoded refuses it too, unless the policy says
// fail_open for it; then the message passes it as if it were not there, and that is reported.
//
// There are two: a redactor with regular expressions, and a service that is asked by gRPC (api/middleware/v1).
//
// Not here: what is a message and how long it is held (egress/proxy), and judging a changed request again, which
// its caller has to do: what is sent must be what was judged.
package middleware
