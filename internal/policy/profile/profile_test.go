package profile

import (
	"crypto/rand"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// formats are the checks that client libraries, command-line tools and secret
// scanners make of real keys, as their documentation gives them.
var formats = map[string]string{
	"anthropic/api_key":       `^sk-ant-api\d{2}-[\w-]{93}AA$`,
	"claude-code/oauth_token": `^sk-ant-oat\d{2}-[\w-]{93}AA$`,
	"aws/access_key_id":       `^(AKIA|ASIA)[A-Z2-7]{16}$`,
	"aws/secret_access_key":   `^[A-Za-z0-9/+]{40}$`,
	"aws/session_token":       `^[A-Za-z0-9/+=]{100,}$`,
	"github/token":            `^gh[pousr]_[A-Za-z0-9]{36,251}$`,
	"gitlab/token":            `^glpat-[\w-]{20}$`,
	"google/api_key":          `^AIza[\w-]{35}$`,
	"npm/token":               `^npm_[A-Za-z0-9]{36}$`,
	"openai/api_key":          `^sk-(proj-)?[\w-]{20,}$`,
	"pypi/token":              `^pypi-AgEIcHlwaS5vcmc[\w-]{50,1000}$`,
}

func TestPlaceholdersPassFormatChecks(t *testing.T) {
	tested := 0
	for _, p := range All() {
		for _, c := range p.Credentials {
			for range 50 {
				got, err := c.Shape.New(rand.Reader)
				if err != nil {
					t.Fatalf("%s/%s: %v", p.ID, c.Name, err)
				}
				if f, known := formats[p.ID+"/"+c.Name]; known && !regexp.MustCompile(f).MatchString(got) {
					t.Errorf("%s/%s: %q fails the format check %s", p.ID, c.Name, got, f)
				}
			}
			if formats[p.ID+"/"+c.Name] != "" {
				tested++
			} else if !p.Generic {
				t.Errorf("%s/%s has no format check here", p.ID, c.Name)
			}
		}
	}
	if tested != len(formats) {
		t.Errorf("%d formats were tested, want %d", tested, len(formats))
	}
}

func TestTable(t *testing.T) {
	all := All()
	if !slices.IsSortedFunc(all, func(a, b Profile) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("the table is not ordered")
	}
	env := map[string]string{}
	for _, p := range all {
		if p.Generic == (len(p.Endpoints) > 0) {
			t.Errorf("%s: a service has hosts, a generic profile has none", p.ID)
		}
		for _, e := range p.Endpoints {
			if strings.Contains(e.Host, "*") && !p.Signs {
				t.Errorf("%s: %s: a key that is sent goes to exact hosts only", p.ID, e.Host)
			}
			if e.Port == 0 {
				t.Errorf("%s: %s: no port", p.ID, e.Host)
			}
		}
		for _, c := range p.Credentials {
			if len(c.Places) == 0 != p.Signs {
				t.Errorf("%s/%s: what signs has no place, everything else has one", p.ID, c.Name)
			}
			for _, at := range c.Places {
				if at.Kind == Header && at.Name != http.CanonicalHeaderKey(at.Name) {
					t.Errorf("%s/%s: %s is not canonical", p.ID, c.Name, at.Name)
				}
			}
			for _, name := range c.Env {
				if other := env[name]; other != "" {
					t.Errorf("%s: taken by %s and %s", name, other, p.ID)
				}
				env[name] = p.ID
			}
		}
	}
}

func TestFindGivesACopy(t *testing.T) {
	p, ok := Find("github")
	if !ok {
		t.Fatal("github is not known")
	}
	p.Endpoints[0].Host, p.Credentials[0].Places[0].Name, p.Credentials[0].Env[0] = "evil.example", "X", "Y"
	again, _ := Find("github")
	if again.Endpoints[0].Host != "api.github.com" || again.Credentials[0].Places[0].Name != "Authorization" || again.Credentials[0].Env[0] != "GITHUB_TOKEN" {
		t.Error("the table was changed through a copy")
	}
	if _, ok := Find("nobody"); ok {
		t.Error("an unknown profile was found")
	}
}
