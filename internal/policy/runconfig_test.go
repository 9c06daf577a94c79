package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/policy/profile"
)

const runExample = `version: 1
providers:
  anthropic: {source: {env: ANTHROPIC_API_KEY}}
  cloud:
    profile: aws
    sources:
      access_key_id: {env: AWS_ACCESS_KEY_ID}
      secret_access_key: {file: /run/secrets/aws}
  forge:
    profile: header
    header: x-forge-token
    scheme: Token
    prefix: frg_
    env: [FORGE_TOKEN, FORGE_KEY]
    source: {command: [pass, show, forge], ttl: 5m}
    endpoints:
      - {host: API.Forge.example, path: /v2/**}
      - {host: upload.forge.example, port: 8443}
      - {host: forge.local, scheme: http}
  gitlab:
    source: {keyring: {service: gitlab, account: me}}
inference:
  max_concurrent: 4
  requests_per_minute: 60
  max_body_bytes: 1048576
  routes:
    - api: anthropic
      base_url: https://api.anthropic.com/
      provider: anthropic
      models: [{name: "claude-*", use: claude-sonnet-4-5}, {name: small}]
      max_tokens: 8192
      timeout: 2m
    - {api: openai, base_url: "http://127.0.0.1:11434"}
`

func TestParseRunConfig(t *testing.T) {
	c, err := ParseRunConfig("run.yaml", []byte(runExample))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Providers) != 4 || c.Providers[0].Name != "anthropic" || c.Providers[0].Profile.ID != "anthropic" {
		t.Fatalf("providers = %+v", c.Providers)
	}
	forge := c.Providers[2]
	wantEndpoints := []profile.Endpoint{{Host: "api.forge.example", Port: 443, Path: "/v2/**"}, {Host: "upload.forge.example", Port: 8443}, {Host: "forge.local", Port: 80, HTTP: true}}
	if diff := cmp.Diff(wantEndpoints, forge.Profile.Endpoints); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	wantPlaces := []profile.Place{{Kind: profile.Header, Name: "X-Forge-Token", Scheme: "Token"}}
	if diff := cmp.Diff(wantPlaces, forge.Profile.Credentials[0].Places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	if got := forge.Profile.Credentials[0]; got.Shape.Prefix != "frg_" || strings.Join(got.Env, " ") != "FORGE_TOKEN FORGE_KEY" {
		t.Errorf("credential = %+v", got)
	}
	wantSources := map[string][]Source{
		"anthropic": {{Env: "ANTHROPIC_API_KEY", Line: 3}},
		"cloud":     {{Env: "AWS_ACCESS_KEY_ID", Line: 7}, {File: "/run/secrets/aws", Line: 8}, {}},
		"forge":     {{Command: []string{"pass", "show", "forge"}, TTL: 5 * time.Minute, Line: 15}},
		"gitlab":    {{Service: "gitlab", Account: "me", TTL: DefaultTTL, Line: 21}},
	}
	for _, p := range c.Providers {
		if diff := cmp.Diff(wantSources[p.Name], p.Sources); diff != "" {
			t.Errorf("%s: sources (-want +got):\n%s", p.Name, diff)
		}
	}
	wantInference := &Inference{
		MaxBody: 1 << 20, MaxConcurrent: 4, PerMinute: 60, Line: 23,
		Routes: []Route{
			{API: Anthropic, Base: "https://api.anthropic.com", Provider: "anthropic", MaxTokens: 8192, Timeout: 2 * time.Minute, Line: 27,
				Models: []Model{{"claude-*", "claude-sonnet-4-5"}, {"small", ""}}},
			{API: OpenAI, Base: "http://127.0.0.1:11434", Timeout: 10 * time.Minute, Line: 33},
		},
	}
	if diff := cmp.Diff(wantInference, c.Inference); diff != "" {
		t.Errorf("inference (-want +got):\n%s", diff)
	}
}

// TestParseRunConfigRefuses pins message and place. Each case follows
// "version: 1\nproviders:\n" unless it begins with its own version.
func TestParseRunConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, doc, want string }{
		{"literal secret", "  github: {source: {value: ghp_secret}}", `r.yaml:3:21: a source has no field "value"`},
		{"unknown profile", "  githup: {source: {env: A}}", `r.yaml:3:3: there is no profile "githup"; known are anthropic, aws, basic`},
		{"unknown field", "  github: {sourse: {env: A}}", `did you mean "source"?`},
		{"no source", "  github: {profile: github}", `provider "github" needs a source`},
		{"two kinds of source", "  github: {source: {env: A, file: /a}}", "a source is one of env, file, command and keyring"},
		{"empty source", "  github: {source: {}}", "a source is one of env, file, command and keyring"},
		{"source and sources", "  github: {source: {env: A}, sources: {token: {env: B}}}", "give source or sources, not both"},
		{"one of three missing", "  aws: {sources: {access_key_id: {env: A}}}", `needs a source for secret_access_key`},
		{"source for three", "  aws: {source: {env: A}}", "profile aws has 3 credentials; give them under sources"},
		{"wildcard host", "  github: {source: {env: A}, endpoints: [{host: \"*.example.com\"}]}", "a credential goes to exact hosts"},
		{"relative file", "  github: {source: {file: secret}}", "expected an absolute path"},
		{"bad variable", "  github: {source: {env: 1A}}", `r.yaml:3:26: env: "1A" is no name of a variable`},
		{"ttl of a file", "  github: {source: {file: /a, ttl: 1m}}", "a file is read again when it changes"},
		{"ttl too short", "  github: {source: {command: [a], ttl: 1s}}", "ttl: expected a time from 10s to 24h0m0s"},
		{"no command", "  github: {source: {command: []}}", "expected a program and its arguments"},
		{"header elsewhere", "  github: {source: {env: A}, header: x}", "header belongs to profile: header"},
		{"header missing", "  x: {profile: header, env: X, source: {env: A}}", `profile: header needs "header"`},
		{"framing header", "  x: {profile: header, env: X, header: transfer-encoding, source: {env: A}}", `header: "Transfer-Encoding" cannot hold a key`},
		{"odd header", "  x: {profile: header, env: X, header: \"a:b\", source: {env: A}}", `cannot hold a key`},
		{"generic without env", "  x: {profile: bearer, source: {env: A}}", `profile: bearer needs "env"`},
		{"prefix of a known key", "  github: {source: {env: A}, prefix: x_}", "profile github knows how its keys look"},
		{"one variable twice", "  a: {profile: bearer, env: T, source: {env: A}}\n  b: {profile: bearer, env: T, source: {env: B}}", `r.yaml:4:1: the variable T is set by provider "a" already`},
		{"bound to inference.local", "  github: {source: {env: A}, endpoints: [{host: inference.local}]}", "inference.local takes no credentials"},
		{"no version", "version: 2", "version: expected 1 to 1, found 2"},
		{"alias", "  a: &x {profile: bearer, env: T, source: {env: A}}", "anchors are not part"},
		{"unknown section", "version: 1\nnetwork_policies: {}", `a run configuration has no field "network_policies"`},
		{"no routes", "version: 1\ninference: {max_concurrent: 1}", `inference needs "routes"`},
		{"route without its provider", "version: 1\ninference: {routes: [{api: openai, base_url: \"https://a.example\", provider: x}]}", `there is no provider "x"`},
		{"key over http", "version: 1\nproviders: {openai: {source: {env: A}}}\ninference: {routes: [{api: openai, base_url: \"http://127.evil.example\", provider: openai}]}", "a key is sent over https only"},
		{"version in the base", "version: 1\ninference: {routes: [{api: openai, base_url: \"https://a.example/v1\"}]}", "leave /v1 out"},
		{"key in the base", "version: 1\ninference: {routes: [{api: openai, base_url: \"https://u:p@a.example\"}]}", "a key belongs to a provider"},
		{"not a URL", "version: 1\ninference: {routes: [{api: openai, base_url: \"a.example\"}]}", "expected a URL such as"},
		{"its own backend", "version: 1\ninference: {routes: [{api: openai, base_url: \"https://inference.local\"}]}", "cannot be its own backend"},
		{"unknown api", "version: 1\ninference: {routes: [{api: gemini, base_url: \"https://a.example\"}]}", "api: expected openai or anthropic"},
		{"pattern as a model", "version: 1\ninference: {routes: [{api: openai, base_url: \"https://a.example\", models: [{name: a, use: \"b*\"}]}]}", "expected the name of one model"},
	} {
		doc := c.doc
		if !strings.HasPrefix(doc, "version") {
			doc = "version: 1\nproviders:\n" + doc
		}
		got, err := ParseRunConfig("r.yaml", []byte(doc))
		var list Errors
		if got != nil || !errors.As(err, &list) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: ParseRunConfig = %v, %v, want an error with %q", c.name, got, err, c.want)
		}
		if err != nil && !strings.Contains(list.Detail(), "^") {
			t.Errorf("%s: no caret in\n%s", c.name, list.Detail())
		}
	}
}

func FuzzParseRunConfig(f *testing.F) {
	f.Add([]byte(runExample))
	f.Add([]byte("version: 1\nproviders: {x: {profile: query, query: k, env: X, source: {env: A}}}"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := ParseRunConfig("r.yaml", src)
		if err != nil {
			return
		}
		for _, p := range c.Providers {
			if len(p.Sources) != len(p.Profile.Credentials) {
				t.Fatalf("%d sources for %d credentials", len(p.Sources), len(p.Profile.Credentials))
			}
			for i, cred := range p.Profile.Credentials {
				if !cred.Optional && !p.Sources[i].Given() {
					t.Fatalf("%s: no source for %s", p.Name, cred.Name)
				}
			}
			for _, e := range p.Profile.Endpoints {
				if strings.Contains(e.Host, "*") && !p.Profile.Signs {
					t.Fatalf("%s goes to %s", p.Name, e.Host)
				}
			}
		}
	})
}
