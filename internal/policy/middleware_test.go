package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const middlewares = `version: 1
network_middlewares:
  second:
    middleware: sallyport/grpc
    order: 20
    on_error: fail_open
    endpoints: {include: ["*.Forge.example"], exclude: [raw.forge.example]}
    config:
      address: unix:/run/scan.sock
      timeout_ms: 250
      settings: {level: 3, words: [a, b], deep: {on: true}}
  first:
    name: no secrets
    middleware: sallyport/regex
    order: 10
    config:
      mode: deny
      apply: [requests, responses]
      max_body_bytes: 4096
      patterns:
        - {name: card, regex: '\b[0-9]{16}\b'}
        - {name: host, regex: 'internal\.example', replacement: "$1"}
  upstream: {middleware: openshell/regex, order: 30, config: {mode: redact}}
`

func TestParseMiddlewares(t *testing.T) {
	p, _, err := Parse("p.yaml", []byte(middlewares))
	if err != nil {
		t.Fatal(err)
	}
	want := []Middleware{
		{Key: "first", Name: "no secrets", Middleware: RegexMiddleware, Order: 10, Line: 12,
			Redactor: &Redactor{Deny: true, Requests: true, Responses: true, MaxBody: 4096, Patterns: []Pattern{
				{"card", `\b[0-9]{16}\b`, "[redacted:card]"}, {"host", `internal\.example`, "$1"},
			}}},
		{Key: "second", Name: "second", Middleware: GRPCMiddleware, Order: 20, FailOpen: true, Line: 3,
			Include: []string{"*.forge.example"}, Exclude: []string{"raw.forge.example"},
			Service: &Service{Address: "unix:/run/scan.sock", Timeout: 250 * time.Millisecond,
				Settings: map[string]any{"level": int64(3), "words": []any{"a", "b"}, "deep": map[string]any{"on": true}}}},
		{Key: "upstream", Name: "upstream", Middleware: RegexMiddleware, Order: 30, Line: 23, Redactor: &Redactor{Requests: true}},
	}
	for i := range p.Middlewares {
		if p.Middlewares[i].Config == nil {
			t.Errorf("Config of %s is lost", p.Middlewares[i].Key)
		}
		p.Middlewares[i].Config = nil
	}
	if diff := cmp.Diff(want, p.Middlewares); diff != "" {
		t.Errorf("Middlewares differ (-want +got):\n%s", diff)
	}
	for host, covered := range map[string]bool{"api.forge.example": true, "raw.forge.example": false, "forge.example": false} {
		if got := want[1].Covers(host); got != covered {
			t.Errorf("Covers(%q) = %v, want %v", host, got, covered)
		}
	}
}

func TestParseRefusesMiddlewares(t *testing.T) {
	one := func(s string) string { return "network_middlewares:\n  m: {order: 1, " + s + "}" }
	regex := func(s string) string {
		return one("middleware: sallyport/regex, config: {patterns: [{name: n, regex: " + s + "}]}")
	}
	grpc := func(s string) string { return one("middleware: sallyport/grpc, config: {" + s + "}") }
	for _, tt := range []struct{ name, doc, want string }{
		{"not known", one("middleware: acme/dlp"), `middleware: expected sallyport/regex or sallyport/grpc or openshell/regex, found "acme/dlp"`},
		{"unknown field of config", one("middleware: sallyport/regex, config: {mod: deny}"), `has no field "mod"; did you mean "mode"?`},
		{"mode", one("middleware: sallyport/regex, config: {mode: Deny}"), "mode: expected redact or deny"},
		{"apply", one("middleware: sallyport/regex, config: {apply: [request]}"), "apply: expected a list of requests and responses"},
		{"apply to nothing", one("middleware: sallyport/regex, config: {apply: []}"), "apply: expected a list"},
		{"broken regex", regex(`"a("`), "regex: error parsing regexp"},
		{"look-ahead", regex(`"a(?=b)"`), "regex: error parsing regexp"},
		{"regex for nothing", regex(`"x*"`), "matches nothing at all"},
		{"pattern without a name", one("middleware: sallyport/regex, config: {patterns: [{regex: a}]}"), `a pattern needs "name"`},
		{"ceiling", one("middleware: sallyport/regex, config: {max_body_bytes: 16777217}"), "expected 1 to 16777216"},
		{"no config", one("middleware: sallyport/grpc"), "needs a config with the address"},
		{"no address", grpc("timeout_ms: 100"), `needs "address"`},
		{"in the clear", grpc(`address: "http://10.0.0.1:80"`), "http is for loopback addresses"},
		{"name that may be anything", grpc(`address: "http://localhost:80"`), "http is for loopback addresses"},
		{"path", grpc(`address: "https://a.example/x"`), "expected http://HOST:PORT"},
		{"user", grpc(`address: "https://u:p@a.example"`), "expected http://HOST:PORT"},
		{"relative socket", grpc(`address: "unix:run/x"`), "absolute path"},
		{"time", grpc(`address: "unix:/x", timeout_ms: 5`), "expected 10 to 30000"},
		{"host", one(`middleware: sallyport/regex, endpoints: {include: ["*"]}`), "include:"},
		{"same order", "network_middlewares:\n  a: {middleware: sallyport/regex, order: 1}\n  b: {middleware: sallyport/regex, order: 1}", `has the order of "a"`},
		{"opaque tunnel", one("middleware: sallyport/regex") + "\nnetwork_policies:\n  p: {endpoints: [{host: a.example, port: 443, tls: skip}], binaries: [{path: /x}]}",
			"middleware m covers a.example of line 5, which is an opaque tunnel"},
		{"opaque tunnel under a wildcard", one(`middleware: sallyport/regex, endpoints: {include: ["**.corp.example"]}`) + "\nnetwork_policies:\n  p: {endpoints: [{host: \"*.corp.example\", port: 443, tls: skip}], binaries: [{path: /x}]}",
			"covers *.corp.example of line 5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Parse("p.yaml", []byte("version: 1\n"+tt.doc+"\n"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse = %v, want %q", err, tt.want)
			}
		})
	}
	for _, s := range []string{`endpoints: {exclude: [a.example]}`, `on_error: fail_open`, `endpoints: {include: [b.example]}`} {
		doc := "version: 1\n" + one("middleware: sallyport/regex, "+s) + "\nnetwork_policies:\n  p: {endpoints: [{host: a.example, port: 443, tls: skip}], binaries: [{path: /x}]}\n"
		if _, _, err := Parse("p.yaml", []byte(doc)); err != nil {
			t.Errorf("Parse with %s = %v, want no error", s, err)
		}
	}
}
