// Package profile knows the services that agents use: which keys they take, in
// which variable an agent looks for one, how it must look, where in a request it
// may stand and which hosts get it.
//
// Deliberately not here: the keys themselves, and what a policy allows. A
// profile only limits where a secret may go.
//
// What must hold: hosts are exact, but for keys that sign and are never sent.
package profile

import (
	"slices"

	"sallyport/internal/secret"
)

// Kind is a part of a request in which a placeholder may stand.
type Kind uint8

// The kinds. Body and WebSocket text are no places of a profile: a policy opens
// them for one endpoint.
const (
	Header Kind = iota + 1 // the whole value, or what follows Scheme and one space
	Basic                  // user or password of Authorization: Basic
	Query                  // the whole value of one parameter
	Path                   // one whole segment of the path, or what follows Scheme in it
)

// Place is one place that a credential may take.
type Place struct {
	Kind   Kind
	Name   string // of the header, canonical, or of the query parameter
	Scheme string // Header: "Bearer", matched without case; Path: a prefix such as "bot"; may be empty
}

// Endpoint is where a provider's credentials may go.
type Endpoint struct {
	Host string // canonical; a pattern only where Signs
	Port uint16
	Path string // glob; empty: all
	HTTP bool   // without TLS; false wants https
}

// Credential is one key of a service.
type Credential struct {
	Name     string       // its key under sources
	Env      []string     // variables in which an agent looks for it
	Shape    secret.Shape // of its placeholder
	Places   []Place
	Optional bool
}

// Profile is one service, or one way to present a key.
type Profile struct {
	ID          string
	Title       string
	Credentials []Credential
	Endpoints   []Endpoint // none: the configuration or the policy must say where
	Signs       bool       // its keys sign requests (AWS Signature Version 4) and are not sent
	Generic     bool       // the configuration names header, query parameter, variable and hosts
}

// bearer are the places of a token that is presented as such.
var bearer = []Place{{Header, "Authorization", "Bearer"}}

// https makes exact endpoints on port 443.
func https(hosts ...string) []Endpoint {
	out := make([]Endpoint, len(hosts))
	for i, h := range hosts {
		out[i] = Endpoint{Host: h, Port: 443}
	}
	return out
}

// Opaque is the shape of a key that nothing checks.
var Opaque = secret.Shape{Prefix: "sallyport_", Alphabet: secret.Base62, Random: 40}

// profiles has a row for each service, ordered by ID. Lengths and letters are
// those of real keys, so that client libraries and secret scanners know them.
var profiles = []Profile{
	{ID: "anthropic", Title: "Anthropic API", Endpoints: https("api.anthropic.com"), Credentials: []Credential{{
		Name: "api_key", Env: []string{"ANTHROPIC_API_KEY"},
		Shape:  secret.Shape{Prefix: "sk-ant-api03-", Alphabet: secret.URLSafe, Random: 93, Suffix: "AA"},
		Places: []Place{{Header, "X-Api-Key", ""}, bearer[0]},
	}}},
	{ID: "aws", Title: "Amazon Web Services, signed requests", Signs: true,
		Endpoints: []Endpoint{{Host: "**.amazonaws.com", Port: 443}}, Credentials: []Credential{
			{Name: "access_key_id", Env: []string{"AWS_ACCESS_KEY_ID"}, Shape: secret.Shape{Prefix: "AKIA", Alphabet: secret.Base32, Random: 16}},
			{Name: "secret_access_key", Env: []string{"AWS_SECRET_ACCESS_KEY"}, Shape: secret.Shape{Alphabet: secret.Base64, Random: 40}},
			{Name: "session_token", Env: []string{"AWS_SESSION_TOKEN"}, Shape: secret.Shape{Prefix: "IQoJb3JpZ2luX2Vj", Alphabet: secret.Base62, Random: 240}, Optional: true},
		}},
	{ID: "basic", Title: "user name and password", Generic: true, Credentials: []Credential{{
		Name: "password", Shape: Opaque, Places: []Place{{Basic, "Authorization", ""}},
	}}},
	{ID: "bearer", Title: "Authorization: Bearer", Generic: true, Credentials: []Credential{{
		Name: "token", Shape: Opaque, Places: bearer,
	}}},
	{ID: "claude-code", Title: "Claude Code with a subscription", Endpoints: https("api.anthropic.com"), Credentials: []Credential{{
		Name: "oauth_token", Env: []string{"CLAUDE_CODE_OAUTH_TOKEN"},
		Shape: secret.Shape{Prefix: "sk-ant-oat01-", Alphabet: secret.URLSafe, Random: 93, Suffix: "AA"}, Places: bearer,
	}}},
	{ID: "github", Title: "GitHub", Endpoints: https("api.github.com", "github.com", "uploads.github.com"), Credentials: []Credential{{
		Name: "token", Env: []string{"GITHUB_TOKEN", "GH_TOKEN"}, Shape: secret.Shape{Prefix: "ghp_", Alphabet: secret.Base62, Random: 36},
		Places: []Place{bearer[0], {Header, "Authorization", "token"}, {Basic, "Authorization", ""}},
	}}},
	{ID: "gitlab", Title: "GitLab", Endpoints: https("gitlab.com"), Credentials: []Credential{{
		Name: "token", Env: []string{"GITLAB_TOKEN"}, Shape: secret.Shape{Prefix: "glpat-", Alphabet: secret.URLSafe, Random: 20},
		Places: []Place{{Header, "Private-Token", ""}, bearer[0], {Basic, "Authorization", ""}},
	}}},
	{ID: "google", Title: "Google API key (Gemini)", Endpoints: https("generativelanguage.googleapis.com"), Credentials: []Credential{{
		Name: "api_key", Env: []string{"GEMINI_API_KEY", "GOOGLE_API_KEY"}, Shape: secret.Shape{Prefix: "AIza", Alphabet: secret.URLSafe, Random: 35},
		Places: []Place{{Header, "X-Goog-Api-Key", ""}, {Query, "key", ""}},
	}}},
	{ID: "header", Title: "a header that the configuration names", Generic: true, Credentials: []Credential{{
		Name: "value", Shape: Opaque, Places: []Place{{Kind: Header}},
	}}},
	{ID: "npm", Title: "npm registry", Endpoints: https("registry.npmjs.org"), Credentials: []Credential{{
		Name: "token", Env: []string{"NPM_TOKEN", "NODE_AUTH_TOKEN"}, Shape: secret.Shape{Prefix: "npm_", Alphabet: secret.Base62, Random: 36}, Places: bearer,
	}}},
	{ID: "openai", Title: "OpenAI API", Endpoints: https("api.openai.com"), Credentials: []Credential{{
		Name: "api_key", Env: []string{"OPENAI_API_KEY"},
		Shape: secret.Shape{Prefix: "sk-proj-", Alphabet: secret.URLSafe, Random: 156}, Places: bearer,
	}}},
	{ID: "path", Title: "a segment of the path", Generic: true, Credentials: []Credential{{
		Name: "value", Shape: Opaque, Places: []Place{{Kind: Path}},
	}}},
	{ID: "pypi", Title: "Python package index, uploads", Endpoints: https("upload.pypi.org"), Credentials: []Credential{{
		Name: "token", Env: []string{"TWINE_PASSWORD", "UV_PUBLISH_TOKEN"},
		Shape: secret.Shape{Prefix: "pypi-AgEIcHlwaS5vcmc", Alphabet: secret.URLSafe, Random: 150}, Places: []Place{{Basic, "Authorization", ""}},
	}}},
	{ID: "query", Title: "a query parameter that the configuration names", Generic: true, Credentials: []Credential{{
		Name: "value", Shape: Opaque, Places: []Place{{Kind: Query}},
	}}},
}

// Find gives the profile of that name. Its slices are the caller's own.
func Find(id string) (Profile, bool) {
	i := slices.IndexFunc(profiles, func(p Profile) bool { return p.ID == id })
	if i < 0 {
		return Profile{}, false
	}
	p := profiles[i]
	p.Endpoints = slices.Clone(p.Endpoints)
	p.Credentials = slices.Clone(p.Credentials)
	for i := range p.Credentials {
		c := &p.Credentials[i]
		c.Env, c.Places = slices.Clone(c.Env), slices.Clone(c.Places)
	}
	return p, true
}

// All gives every profile, ordered by ID.
func All() []Profile {
	out := make([]Profile, len(profiles))
	for i := range profiles {
		out[i], _ = Find(profiles[i].ID)
	}
	return out
}
