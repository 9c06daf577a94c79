package inject

import "fmt"

// Code is the stable name of a refusal.
type Code string

// The codes. Everything but Unavailable is the agent's doing.
const (
	Unbound     Code = "credential_endpoint_mismatch" // a placeholder on its way to a host, port or path that it is not bound to
	Misplaced   Code = "credential_misplaced"         // a placeholder in a place that its provider does not declare
	Unsignable  Code = "credential_signing_failed"    // a request that cannot be signed anew
	Unavailable Code = "credential_unavailable"       // the secret could not be had, or does not fit its place
	Encoded     Code = "credential_answer_encoded"    // an answer that cannot be searched for the secret
)

// Refusal is why a request is not sent or an answer not passed on. It names the
// provider and never the secret.
type Refusal struct {
	Code     Code
	Provider string
	Detail   string // a sentence for the agent
	cause    error
}

func (r *Refusal) Error() string { return r.Detail }

// Unwrap is what went wrong with a source, for the person only.
func (r *Refusal) Unwrap() error { return r.cause }

// Status is the HTTP status that tells the agent.
func (r *Refusal) Status() int {
	switch r.Code {
	case Unavailable:
		return 503
	case Encoded:
		return 502
	}
	return 403
}

func (c *Credential) refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Provider: c.Provider, Detail: fmt.Sprintf("the placeholder of provider "+c.Provider+" "+format, args...)}
}

// Reason is the code as text.
func (r *Refusal) Reason() string { return string(r.Code) }
