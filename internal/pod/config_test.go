package pod

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	c := DefaultConfig()
	err := c.Parse([]byte(`{
	  "policy": "/c/policy.yaml", "run": "/c/run.yaml", "upstream_ca": "/c/ca.pem", "workdir": "/work", "secrets": "/s", "health": ":3129", "grace": "28s",
	  "env": ["A=b"], "private": ["/sallyport"], "events": "stderr", "termination": "/t"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Policy: "/c/policy.yaml", Run: "/c/run.yaml", UpstreamCA: "/c/ca.pem", Workdir: "/work", Secrets: "/s", Health: ":3129", Grace: 28 * time.Second,
		Env: []string{"A=b"}, Private: []string{"/sallyport"}, Events: "stderr", Termination: "/t"}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ src, want string }{
		"nothing":         {``, "expected one JSON object"},
		"a list":          {`[]`, "expected one JSON object"},
		"an unknown key":  {`{"polcy": "/p"}`, `"polcy" is unknown; expected env, events`},
		"another case":    {`{"Policy": "/p"}`, `"Policy" is unknown`},
		"a key twice":     {`{"policy": "/p", "policy": "/q"}`, `"policy" comes twice`},
		"a number":        {`{"policy": 1}`, "policy: expected a string"},
		"null":            {`{"policy": null}`, "policy: expected a string"},
		"a list of any":   {`{"env": ["A=b", 1]}`, "env: expected a list of strings"},
		"no unit":         {`{"grace": "28"}`, "grace:"},
		"negative":        {`{"grace": "-1s"}`, "grace:"},
		"something after": {`{} {}`, "something follows"},
		"half":            {`{"policy": "/p"`, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			c := DefaultConfig()
			if err := c.Parse([]byte(tt.src)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse(%s) = %v, want an error with %q", tt.src, err, tt.want)
			}
		})
	}
}

func TestEnviron(t *testing.T) {
	c := DefaultConfig()
	c.Workdir = "/from-the-file"
	if err := c.Environ([]string{"SALLYPORT_WORKDIR=/w", "SALLYPORT_GRACE=5s", "SALLYPORT=1", "HOME=/h"}); err != nil {
		t.Fatal(err)
	}
	if c.Workdir != "/w" || c.Grace != 5*time.Second {
		t.Errorf("Environ gave %+v", c)
	}
	for _, bad := range []string{"SALLYPORT_SERVICE_HOST=10.0.0.1", "SALLYPORT_workdir=/w", "SALLYPORT_ENV=A=b", "SALLYPORT_GRACE=soon", "SALLYPORT_=x"} {
		if err := c.Environ([]string{bad}); err == nil {
			t.Errorf("Environ(%s) is no error", bad)
		}
	}
}

func TestValidate(t *testing.T) {
	for name, c := range map[string]Config{
		"policy": {Policy: "p.yaml"}, "workdir": {Workdir: "."}, "secrets": {Secrets: "s"}, "private": {Private: []string{"x"}},
		"events": {Events: "syslog"}, "env": {Env: []string{"A"}}, "termination": {Termination: "t"},
	} {
		if err := c.validate(); err == nil || !strings.Contains(err.Error(), name+":") {
			t.Errorf("%s: validate = %v, want an error that names it", name, err)
		}
	}
}

// FuzzParse: whatever the file holds, it is understood in full or refused, and
// what is understood does not depend on the order of reading.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"grace":"1s"}`, `{"env":[]}`, `{"private":["/a"],"env":null}`, `{"a":{"b":[]}}`, "\xff", `{"policy":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		a, b := DefaultConfig(), DefaultConfig()
		errA, errB := a.Parse(src), b.Parse(src)
		if (errA == nil) != (errB == nil) || errA == nil && !cmp.Equal(a, b) {
			t.Errorf("Parse(%q): %v and %v", src, errA, errB)
		}
		if errA == nil && a.Grace < 0 {
			t.Errorf("Parse(%q) took a negative time", src)
		}
	})
}
