package policy

import (
	"strings"
	"testing"

	"sallyport/internal/policy/profile"
)

// TestCheckProviders: one endpoint, and what a run with these providers says to
// it.
func TestCheckProviders(t *testing.T) {
	github := Provider{Name: "github", Profile: profile.Profile{Endpoints: []profile.Endpoint{{Host: "api.github.com", Port: 443}}}}
	free := Provider{Name: "free"}
	for _, c := range []struct {
		name, endpoint string
		list           []Provider
		want           string // "" for nothing
	}{
		{"no providers", `{host: api.github.com, port: 443}`, nil, ""},
		{"read", `{host: api.github.com, port: 443, protocol: rest, access: full}`, []Provider{github}, ""},
		{"named", `{host: api.github.com, port: 443, credential_binding: {provider: github}}`, []Provider{github}, ""},
		{"elsewhere", `{host: example.com, port: 443}`, []Provider{github}, ""},
		{"another port", `{host: api.github.com, port: 22}`, []Provider{github}, ""},
		{"not read", `{host: api.github.com, port: 443}`, []Provider{github}, `provider "github" is bound to api.github.com port 443, where nothing reads`},
		{"not read, by pattern", `{host: "*.github.com", port: 443}`, []Provider{github}, "where nothing reads"},
		{"not read, on purpose", `{host: api.github.com, port: 443, allow_uninspected_credentials: true}`, []Provider{github}, ""},
		{"bytes", `{host: api.github.com, port: 443, protocol: tcp}`, []Provider{github}, "where nothing reads"},
		{"unknown", `{host: a.example, port: 443, credential_binding: {provider: gitlab}}`, []Provider{github}, `names provider "gitlab", which the run configuration does not have`},
		{"unknown without a configuration", `{host: a.example, port: 443, credential_binding: {provider: github}}`, nil, "does not have"},
		{"no hosts, one name", `{host: a.example, port: 443, credential_binding: {provider: free}}`, []Provider{free}, ""},
		{"no hosts, a pattern", `{host: "*.example", port: 443, credential_binding: {provider: free}}`, []Provider{free}, "must name one exactly"},
		{"rewrites without providers", `{host: a.example, port: 443, protocol: rest, access: full, request_body_credential_rewrite: true}`, nil, "has no providers"},
	} {
		doc := "version: 1\nnetwork_policies:\n  x:\n    endpoints:\n      - " + strings.ReplaceAll(c.endpoint, `"*.example"`, `"*.a.example"`) + "\n    binaries: [{path: /**}]\n"
		p, _, err := Parse("p.yaml", []byte(doc))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		errs := CheckProviders(p, c.list)
		switch {
		case c.want == "" && len(errs) > 0:
			t.Errorf("%s: %v, want nothing", c.name, errs)
		case c.want != "" && (len(errs) != 1 || !strings.Contains(errs.Error(), c.want) || errs[0].Line != 5):
			t.Errorf("%s: %v, want %q on line 5", c.name, errs, c.want)
		}
	}
}

func TestShortProvider(t *testing.T) {
	for _, c := range []struct {
		text string
		want Source
		err  string
	}{
		{"github=env:GH", Source{Env: "GH"}, ""},
		{"github=env", Source{Env: "GITHUB_TOKEN"}, ""},
		{"openai=file:/run/key", Source{File: "/run/key"}, ""},
		{"npm=keyring:npm/me", Source{Service: "npm", Account: "me", TTL: DefaultTTL}, ""},
		{"github", Source{}, "expected NAME=SOURCE"},
		{"github=", Source{}, "expected NAME=SOURCE"},
		{"githup=env", Source{}, "there is no profile"},
		{"aws=env", Source{}, "needs more than one line"},
		{"bearer=env:X", Source{}, "needs more than one line"},
		{"github=env:1X", Source{}, "expected env"},
		{"github=file:key", Source{}, "expected env"},
		{"github=file:/a/../key", Source{}, "expected env"},
		{"github=keyring:x", Source{}, "expected keyring:SERVICE/ACCOUNT"},
		{"github=ghp_secret", Source{}, "expected env"},
	} {
		p, err := ShortProvider(c.text)
		switch {
		case c.err == "" && (err != nil || p.Sources[0].Env != c.want.Env || p.Sources[0].File != c.want.File || p.Sources[0].Service != c.want.Service || p.Sources[0].TTL != c.want.TTL):
			t.Errorf("%s: %+v, %v, want %+v", c.text, p.Sources, err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "ghp_secret")):
			t.Errorf("%s: %v, want %q", c.text, err, c.err)
		}
	}
}
