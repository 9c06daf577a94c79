package programs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sallyport/internal/testkit"
)

// readingPolicy lets programs read from a host and write nothing to it: its
// rules are what docs/policy.md proposes for a forge and a registry.
const readingPolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [READABLE]
  read_write: [/dev/null, /tmp]
network_policies:
  forge:
    endpoints:
      - host: allowed.example
        port: 443
        protocol: rest
        enforcement: enforce
        rules:
          - {allow: {method: GET, path: "/**"}}
          - {allow: {method: POST, path: "/git/*/git-upload-pack"}}
        deny_rules:
          - {method: GET, path: "/git/*/info/refs", query: {service: git-receive-pack}}
        allowed_ips: [203.0.113.0/24]
    binaries: [{path: "/**"}]
`

// writingPolicy is the control: it differs in the rules only.
var writingPolicy = readingPolicy[:strings.Index(readingPolicy, "        rules:")] + "        access: full\n" + readingPolicy[strings.Index(readingPolicy, "        allowed_ips:"):]

// latePolicy denies a push where its objects are sent, and not before.
var latePolicy = strings.Replace(readingPolicy, `, query: {service: git-receive-pack}`, `, query: {service: none}`, 1)

const (
	gitPush = `git clone -q https://HOST/git/repo.git c && cat c/README && cd c && git checkout -q -b new-NAME && echo more >> README &&
git -c user.name=a -c user.email=a@a commit -qam more && git push -q origin new-NAME`
	npmPublish = `npm install --no-audit --no-fund --fetch-retries=0 --registry https://HOST/npm/ tiny >/dev/null && node -p 'require("tiny")' &&
mkdir p && cd p && echo '{"name":"fresh-NAME","version":"1.0.0","main":"i.js"}' > package.json && echo 'module.exports="published"' > i.js &&
echo '//HOST/npm/:_authToken=publisher' > .npmrc && npm publish --fetch-retries=0 --registry https://HOST/npm/ 2>&1`
	curlPost = `curl -sS --fail VERSION https://HOST/hello && curl -sS VERSION -w 'status %{http_code}\n' -d x=1 https://HOST/hello`
)

// TestReadsButDoesNotWrite: programs read from a host and are refused when they
// write to it, in words of theirs that say what to do. With a policy that allows
// it, the same commands do write.
func TestReadsButDoesNotWrite(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		ca := testkit.NewAuthority(t)
		root := filepath.Join(s.dir, "root.pem")
		fatal(t, os.WriteFile(root, ca.PEM, 0o644))
		seen := serveOrigin(t, s.n, ca, s.dir, allowedAddr)
		policies := map[string]string{
			"reading": s.writePolicy(t, "reading.yaml", readingPolicy), "writing": s.writePolicy(t, "writing.yaml", writingPolicy), "late": s.writePolicy(t, "late.yaml", latePolicy),
		}
		for _, c := range []struct {
			name, needs, policy, script string
			read, said                  string // what the program says in each half
			write                       string // request that must, or must not, reach the server
			denied                      string // what sallyport says; empty: the write is allowed
		}{
			{"curl, HTTP/1.1", "curl", "reading", curlPost, `hello from`, `"error":"policy_denied".*"rule_missing":\{.*"method":"POST","path":"/hello".*status 403`, `HTTP/1.1 POST /hello`, `curl → POST allowed.example:443/hello`},
			{"curl, HTTP/2", "curl", "reading", curlPost, `hello from`, `"error":"policy_denied".*"rule_missing":\{.*"method":"POST","path":"/hello".*status 403`, `HTTP/2.0 POST /hello`, `curl → POST allowed.example:443/hello`},
			{"curl, HTTP/1.1", "curl", "writing", curlPost, `hello from`, `hello from allowed.example\nstatus 200`, `HTTP/1.1 POST /hello`, ``},
			{"curl, HTTP/2", "curl", "writing", curlPost, `hello from`, `hello from allowed.example\nstatus 200`, `HTTP/2.0 POST /hello`, ``},
			{"git", "git", "reading", gitPush, `cloned`, `remote: sallyport: policy_denied: .*GET /git/repo.git/info/refs(?s:.*)remote: .*sallyport policy explain`, `service=git-receive-pack`, `→ GET allowed.example:443/git/repo.git/info/refs`},
			{"git", "git", "late", gitPush, `cloned`, `RPC failed; HTTP 403`, `POST /git/repo.git/git-receive-pack`, `→ POST allowed.example:443/git/repo.git/git-receive-pack`},
			{"git", "git", "writing", gitPush + ` && git ls-remote origin new-NAME`, `cloned`, `refs/heads/new-`, `POST /git/repo.git/git-receive-pack`, ``},
			{"npm", "npm", "reading", npmPublish, `installed`, `npm (error|ERR!) 403 403 Forbidden.*no rule of policy "forge" allows PUT /npm/fresh-`, `PUT /npm/fresh`, `→ PUT allowed.example:443/npm/fresh-`},
			{"npm", "npm", "writing", npmPublish + ` && cd .. && npm install --no-audit --no-fund --registry https://HOST/npm/ fresh-NAME >/dev/null && node -p 'require("fresh-NAME")'`, `installed`, `\npublished\n`, `PUT /npm/fresh`, ``},
		} {
			t.Run(c.policy+", "+c.name, func(t *testing.T) {
				s.requireAll(t, c.needs)
				s.policy = policies[c.policy]
				seen.take()
				version := "--http1.1"
				if strings.HasSuffix(c.name, "/2") {
					version = "--http2"
				}
				o := s.run(t, s.work(t), strings.NewReplacer("HOST", allowedHost, "NAME", c.policy, "VERSION", version).Replace(c.script), "--upstream-ca", root)
				before, after, _ := strings.Cut(o.out, "\n")
				if !regexp.MustCompile(c.read).MatchString(before) || !regexp.MustCompile(`(?s)`+c.said).MatchString("\n"+after) {
					t.Errorf("the program said %q, then %q\nwant %s, then %s\n%v", before, after, c.read, c.said, o)
				}
				got := strings.Join(seen.take(), "\n")
				if allowed := c.denied == ""; strings.Contains(got, c.write) != allowed || (o.status == 0) != allowed && !strings.HasPrefix(c.name, "curl") {
					t.Errorf("the server got\n%s\n%q allowed: %v\n%v", got, c.write, allowed, o)
				}
				if !strings.Contains(o.told, c.denied) || c.denied == "" && strings.Contains(o.told, "denied") {
					t.Errorf("sallyport said %q, want %q", o.told, c.denied)
				}
			})
		}
	})
}
