package middleware

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"sallyport/internal/policy"
)

// builtin are the patterns of a redactor that has none of its own: secrets that have a form. The forms are those
// that the issuers document.
var builtin = []policy.Pattern{
	{Name: "private-key", Regex: `-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(-----END [A-Z ]*PRIVATE KEY-----)?`},
	{Name: "aws-access-key", Regex: `\b(AKIA|ASIA)[A-Z2-7]{16}\b`},
	{Name: "github-token", Regex: `\b(gh[opsur]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b`},
	{Name: "gitlab-token", Regex: `\bglpat-[A-Za-z0-9_-]{20,255}`},
	{Name: "slack-token", Regex: `\bxox[abeoprs]-[A-Za-z0-9-]{10,255}`},
	{Name: "anthropic-key", Regex: `\bsk-ant-[A-Za-z0-9_-]{20,255}`},
	{Name: "openai-key", Regex: `\bsk-(proj-|svcacct-)?[A-Za-z0-9_-]{20,255}`},
	{Name: "google-key", Regex: `\bAIza[A-Za-z0-9_-]{35}`},
	{Name: "npm-token", Regex: `\bnpm_[A-Za-z0-9]{36}\b`},
	{Name: "jwt", Regex: `\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}`},
}

var errEncoded = errors.New("the body is encoded, and what it says is not known")

// redactor is sallyport/regex.
type redactor struct {
	deny  bool
	max   int64
	hooks map[Hook]bool
	rules []rule
}

type rule struct {
	name string
	re   *regexp.Regexp
	with []byte
}

func newRedactor(o *policy.Redactor) (*redactor, error) {
	r := &redactor{deny: o.Deny, max: o.MaxBody, hooks: map[Hook]bool{Request: o.Requests, Text: o.Requests, Response: o.Responses, Answer: o.Responses}}
	if r.max <= 0 {
		r.max = defaultBody
	}
	patterns := o.Patterns
	if len(patterns) == 0 {
		patterns = builtin
	}
	for _, p := range patterns {
		re, err := regexp.Compile(p.Regex)
		if err != nil {
			return nil, err
		}
		if len(o.Patterns) == 0 {
			p.Replacement = "[redacted:" + p.Name + "]"
		}
		r.rules = append(r.rules, rule{p.Name, re, []byte(p.Replacement)})
	}
	return r, nil
}

func (r *redactor) close() {}

func (r *redactor) limit(_ context.Context, h Hook) (int64, error) {
	if !r.hooks[h] {
		return 0, nil
	}
	return r.max, nil
}

func (r *redactor) handle(ctx context.Context, m *Message) (found []Finding, err error) {
	if len(m.Body) > 0 && m.encoded() {
		return nil, errEncoded
	}
	body := m.Body
	for _, rule := range r.rules {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := len(rule.re.FindAllIndex(body, -1))
		switch {
		case n == 0:
			continue
		case r.deny:
			return nil, &Denied{Reason: fmt.Sprintf("the message holds what the pattern %q forbids", rule.name)}
		}
		body = rule.re.ReplaceAllLiteral(body, rule.with)
		found = append(found, Finding{Title: "redacted", Detail: fmt.Sprintf("%d times %s", n, rule.name)})
	}
	if found != nil {
		m.replace(body)
	}
	return found, nil
}
