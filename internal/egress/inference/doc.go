// Package inference answers for inference.local: requests for models in the
// dialects of OpenAI and Anthropic go to backends that a person configured, with
// the backend's key.
//
// Deliberately not here: whether a program may ask at all (the policy decides
// about inference.local as about any host), TLS towards the agent (egress/proxy),
// and the key itself (egress/inject).
//
// What must hold: only known paths and allowed models get through; nothing of
// the agent's request is sent on but its body and a few named headers; what was
// judged is what is sent; the agent's own credentials end here; a redirect is
// not followed.
package inference
