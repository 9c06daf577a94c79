package event

import (
	"net/url"
	"strings"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// RedactQuery replaces the values of a raw query string and keeps its keys.
// A part without "=" may itself be a secret and is replaced as a whole.
func RedactQuery(raw string) string {
	if raw == "" {
		return ""
	}
	var b strings.Builder
	for part := range strings.SplitSeq(raw, "&") {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		if b.Len() > maxText {
			return b.String() + ellipsis
		}
		key, _, ok := strings.Cut(part, "=")
		if ok {
			b.WriteString(clip(key, maxToken))
			b.WriteByte('=')
		}
		b.WriteString(Redacted)
	}
	return b.String()
}

// RedactURL replaces the user information, the query values and the fragment
// of a URL or request target. Text that is no URL comes back as it is.
func RedactURL(s string) string {
	if !strings.ContainsAny(s, "?#@") {
		return s
	}
	u, err := url.Parse(s)
	if err != nil {
		return Redacted
	}
	head, _, _ := strings.Cut(s, "#")
	head, query, _ := strings.Cut(head, "?")
	if scheme, rest, ok := strings.Cut(head, "://"); ok && u.User != nil {
		authority, path, slash := strings.Cut(rest, "/")
		authority = Redacted + authority[strings.LastIndexByte(authority, '@'):]
		if slash {
			authority += "/"
		}
		head = scheme + "://" + authority + path
	}
	if query != "" {
		head += "?" + RedactQuery(query)
	}
	return head
}

// secretWords mark a flag, a variable or a header whose value is a secret.
var secretWords = []string{
	"token", "secret", "passw", "passphrase", "api-key", "api_key", "apikey", "auth", "bearer",
	"cookie", "credential", "private-key", "private_key", "session", "signature",
}

// secretPrefixes begin the keys of well-known services.
var secretPrefixes = []string{
	"sk-", "sk_", "rk_", "pk_", "ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "xoxb-", "xoxp-",
	"xapp-", "AKIA", "ASIA", "AIza", "ya29.", "npm_", "pypi-", "hf_", "eyJ",
}

// userFlags take user:password as their value.
var userFlags = map[string]bool{"-u": true, "--user": true, "-U": true, "--proxy-user": true, "--password": true}

// redactArgs turns an argument vector into one line for people: quoted where
// needed, with what looks like a secret replaced. It is a courtesy, not a
// wall: an argument can hold a secret that looks like nothing.
func redactArgs(args []string) string {
	var b strings.Builder
	hideNext := false
	for i, arg := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if b.Len() > maxCmd {
			break
		}
		shown := redactArg(clip(arg, maxCmd))
		if hideNext {
			shown = Redacted
		}
		hideNext = i > 0 && (userFlags[arg] || strings.HasPrefix(arg, "-") && !strings.Contains(arg, "=") && isSecretWord(arg))
		if shown == "" || strings.ContainsAny(shown, " \t\n'\"") {
			shown = `"` + strings.ReplaceAll(shown, `"`, `\"`) + `"`
		}
		b.WriteString(shown)
	}
	return clip(b.String(), maxCmd)
}

// redactArg replaces what looks like a secret in one argument.
func redactArg(arg string) string {
	if strings.Contains(arg, "://") {
		return RedactURL(arg)
	}
	for _, sep := range []string{"=", ":"} {
		key, value, ok := strings.Cut(arg, sep)
		if ok && value != "" && !strings.ContainsAny(key, "/ \n") && (isSecretWord(key) || hasSecretPrefix(value)) {
			return key + sep + Redacted
		}
	}
	for word := range strings.FieldsFuncSeq(arg, func(r rune) bool { return strings.ContainsRune(" \t\n\"'=:", r) }) {
		if hasSecretPrefix(word) {
			return Redacted
		}
	}
	return arg
}

func isSecretWord(s string) bool {
	s = strings.ToLower(s)
	for _, w := range secretWords {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

func hasSecretPrefix(s string) bool {
	s = strings.TrimSpace(s)
	for _, p := range secretPrefixes {
		if strings.HasPrefix(s, p) && len(s) >= len(p)+8 {
			return true
		}
	}
	return false
}
