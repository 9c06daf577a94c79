package programs

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sallyport/internal/policy"
	"sallyport/internal/testkit"
)

// widePolicy is one to learn under: more than the programs need.
const widePolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [READABLE]
  read_write: [/dev/null, /tmp]
network_policies:
  wide:
    endpoints:
      - {host: allowed.example, port: 443, protocol: rest, enforcement: enforce, access: full, allowed_ips: [203.0.113.0/24]}
      - {host: other.example, port: 443, protocol: rest, enforcement: enforce, access: full, allowed_ips: [203.0.113.0/24]}
      - {host: allowed.example, port: 80, allowed_ips: [203.0.113.0/24]}
      - {host: other.example, port: 80, allowed_ips: [203.0.113.0/24]}
      - {host: tcp.example, port: 80, allowed_ips: [203.0.113.0/24]}
      - {host: tcp.example, port: 7001, protocol: tcp, allowed_ips: [203.0.113.0/24]}
    binaries: [{path: "/**"}]
`

const learnedScript = `set -e
curl -sS --fail https://allowed.example/hello
curl -sS --fail --http1.1 -d x=1 https://allowed.example/hello
curl -sS --fail https://allowed.example/items/a%2Bb
curl -sS --fail 'https://allowed.example/hello?page=1&size=9'
curl -sS --fail http://allowed.example/hello
git clone -q https://allowed.example/git/repo.git c && cat c/README
npm_config_update_notifier=false npm install --no-audit --no-fund --fetch-retries=0 --registry https://allowed.example/npm/ tiny >/dev/null && node -p 'require("tiny")'
` + unset + `/usr/bin/python3 -c 'import socket; print(socket.create_connection(("tcp.example", 7001)).makefile().readline())'
`

// beyond is what the programs did not do: each is denied by what was learned,
// and goes through under the policy that it was learned from.
var beyond = []string{
	`curl -sS --fail -X DELETE https://allowed.example/hello`,
	`curl -sS --fail https://allowed.example/hello/more`,
	`curl -sS --fail -d x=1 https://allowed.example/items/a%2Bb`,
	`curl -sS --fail https://other.example/hello`,
	`curl -sS --fail http://other.example/hello`,
	`python3 -c 'import urllib.request as u; u.urlopen("https://allowed.example/hello")'`,
	`curl -sS --fail https://allowed.example/npm/tiny`,
	`curl -sS --fail https://allowed.example/hello?leak=1`,
	`curl -sS --fail https://allowed.example/hello?page=1`,
	`curl -sS --fail 'https://allowed.example/hello?page=1&size=9&leak=1'`,
	`curl -sS --fail http://allowed.example/other`,
	`curl -sS --fail http://allowed.example/hello?leak=1`,
	unset + `curl -sS --fail http://tcp.example/hello`,
	unset + `perl -MIO::Socket::INET -e 'IO::Socket::INET->new("tcp.example:7001") or die'`,
}

// TestLearnedPolicy: a session of real programs is written down, the same
// programs pass under what was written without one denial, and what they did not
// do is denied.
func TestLearnedPolicy(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.requireAll(t, "curl", "git", "npm", "node", "python3", "perl")
		ca := testkit.NewAuthority(t)
		root := filepath.Join(s.dir, "root.pem")
		fatal(t, os.WriteFile(root, ca.PEM, 0o644))
		for _, n := range []string{"other.example", "tcp.example"} {
			s.names.set(n, allowedAddr)
		}
		seen := serveOrigin(t, s.n, ca, s.dir, allowedAddr)
		serveEcho(t, s, allowedAddr)
		s.policy = s.writePolicy(t, "wide.yaml", widePolicy)
		wide, learned := s.policy, filepath.Join(s.dir, "learned.yaml")
		run := func(script string, flags ...string) (o outcome, denials int) {
			t.Helper()
			events := filepath.Join(t.TempDir(), "events")
			o = s.run(t, s.work(t), script, append(flags, "--upstream-ca", root, "--events", events)...)
			b, err := os.ReadFile(events)
			if err != nil {
				t.Fatalf("%v\n%v", err, o)
			}
			return o, strings.Count(string(b), `"disposition":"Blocked"`)
		}
		first, denials := run(learnedScript, "--learn", learned)
		if first.status != 0 || denials != 0 {
			t.Fatalf("the session that is learned from: %d denials, %v", denials, first)
		}
		text, err := os.ReadFile(learned)
		fatal(t, err)
		checkLearned(t, string(text), seen.take())
		t.Run("again", func(t *testing.T) {
			s.policy = learned
			o, denials := run(learnedScript)
			if o.status != 0 || denials != 0 || o.out != first.out {
				t.Errorf("%d denials, %v\nwant what was seen first:\n%s\nunder\n%s", denials, o, first.out, text)
			}
		})
		for _, script := range beyond {
			t.Run(strings.TrimPrefix(script, unset), func(t *testing.T) {
				s.policy = wide
				if o, denials := run(script); denials != 0 || strings.Contains(o.told, "denied") {
					t.Errorf("control: %d denials, %v", denials, o)
				}
				s.policy = learned
				seen.take()
				if o, denials := run(script); o.status == 0 || denials == 0 || len(seen.take()) > 0 {
					t.Errorf("%d denials, %v\nunder\n%s", denials, o, text)
				}
			})
		}
	})
}

// TestLearnedOperations: what clients of GraphQL, MCP and websockets called is learned,
// and what they were denied is not.
func TestLearnedOperations(t *testing.T) {
	withPeers(t, func(t *testing.T, s *scene, _ string, ask asking) {
		readers := s.writePolicy(t, "readers.yaml", readersPolicy)
		byPolicy := regexp.MustCompile(`\{"error".*|[0-9a-f]{4}: no rule of policy "\w+"`)
		said := func(o outcome) string { return byPolicy.ReplaceAllString(o.out, "denied") }
		for what, c := range map[string]struct{ learned, other string }{
			"graphql":    {`path: "/graphql", query_exact: true, operation_type: query, operation_name: "Who", fields: ["viewer"]`, "mcp"},
			"mcp":        {`path: "/mcp", query_exact: true, tool: "search_web"`, "graphql"},
			"operations": {`- allow: {operation_type: query, fields: ["viewer"]}`, "websocket"},
		} {
			t.Run(what, func(t *testing.T) {
				learned := filepath.Join(s.dir, what+".yaml")
				first := ask(t, readers, what, "--learn", learned)
				if first.status != 0 || !strings.Contains(first.out, "done") {
					t.Fatalf("the session that is learned from: %v", first)
				}
				text, err := os.ReadFile(learned)
				fatal(t, err)
				if !strings.Contains(string(text), c.learned) {
					t.Errorf("%q is not in\n%s", c.learned, text)
				}
				if again := ask(t, learned, what); again.status != first.status || said(again) != said(first) {
					t.Errorf("%v\nwant what was seen first:\n%s\nunder\n%s", again, first.out, text)
				}
				if o := ask(t, learned, c.other); strings.Contains(o.out, "done") {
					t.Errorf("%v\nunder\n%s", o, text)
				}
			})
		}
	})
}

// checkLearned holds a learned policy to the requests that the server got.
func checkLearned(t *testing.T, text string, requests []string) {
	t.Helper()
	p, warnings, err := policy.Parse("learned.yaml", []byte(text))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v %v\n%s", warnings, err, text)
	}
	var want, got []string
	for _, r := range requests { // version, method, target
		f := strings.Fields(r)
		path, query, _ := strings.Cut(f[2], "?")
		values, err := url.ParseQuery(query)
		fatal(t, err)
		want = append(want, fmt.Sprint(f[1], " ", path, " ", slices.Sorted(maps.Keys(values))))
	}
	for _, np := range p.Network {
		for _, e := range np.Endpoints {
			for _, a := range e.AllowedIPs {
				if a.String() != allowedAddr+"/32" {
					t.Errorf("%s: allowed_ips has %s", np.Key, a)
				}
			}
			for _, r := range e.Rules {
				got = append(got, fmt.Sprint(r.Allow.Method, " ", r.Allow.Path, " ", slices.Sorted(maps.Keys(r.Allow.Query))))
				if !r.Allow.QueryExact {
					t.Errorf("%s: %s takes other keys of a query", np.Key, r.Allow.Path)
				}
			}
			if e.Protocol == policy.REST && e.Host != allowedHost || regexp.MustCompile(`[*?]`).MatchString(e.Host) {
				t.Errorf("%s: host %s", np.Key, e.Host)
			}
		}
		for _, b := range np.Binaries {
			if strings.ContainsAny(b.Path, "*?") {
				t.Errorf("%s: program %s", np.Key, b.Path)
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	want, got = slices.Compact(want), slices.Compact(got) // two programs, or schemes, can have asked the same
	if !slices.Equal(want, got) {
		t.Errorf("learned\n%s\nthe server was asked\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
