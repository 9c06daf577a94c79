package programs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sallyport/internal/testkit"
)

const readersPolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [READABLE]
  read_write: [/dev/null, /tmp]
network_policies:
  api:
    endpoints:
      - host: allowed.example
        port: 443
        path: /graphql
        protocol: graphql
        enforcement: enforce
        rules: [{allow: {operation_type: query, fields: [viewer]}}]
        allowed_ips: [203.0.113.0/24]
      - host: allowed.example
        port: 443
        path: /mcp
        protocol: mcp
        enforcement: enforce
        rules:
          - {allow: {method: initialize}}
          - {allow: {method: notifications/initialized}}
          - {allow: {method: tools/list}}
          - {allow: {method: tools/call, tool: search_web}}
        allowed_ips: [203.0.113.0/24]
      - {host: allowed.example, port: 443, path: /echo, protocol: websocket, enforcement: enforce, access: read-write, allowed_ips: [203.0.113.0/24]}
      - {host: allowed.example, port: 443, path: /listen, protocol: websocket, enforcement: enforce, access: read-only, allowed_ips: [203.0.113.0/24]}
      - host: allowed.example
        port: 443
        path: /subscribe
        protocol: websocket
        enforcement: enforce
        rules: [{allow: {method: GET}}, {allow: {operation_type: query}}]
        allowed_ips: [203.0.113.0/24]
    binaries: [{path: "/**"}]
network_middlewares:
  keys: {middleware: sallyport/regex, order: 1, endpoints: {include: [allowed.example]}}
`

// TestReaders: clients and servers made with the libraries that people use for GraphQL, MCP and WebSockets. The
// allowed half of what each asks for works, and of the other half the server never hears.
func TestReaders(t *testing.T) {
	withPeers(t, func(t *testing.T, s *scene, said string, ask asking) {
		policy := s.writePolicy(t, "readers.yaml", readersPolicy)
		for _, c := range []struct {
			what  string
			wants []string // of what the client says, in order
		}{
			{"graphql", []string{
				`200 {"data":{"me":"viewer done"}}`,
				`403 .*"error":"policy_denied".*mutation.*`,
				`200 {"data":{"viewer":"viewer done"}}`,
			}},
			{"mcp", []string{`search_web delete_all`, `search_web done`, `refused: .*policy_denied.*delete_all.*`}},
			{"websocket", []string{
				`open "permessage-deflate"`, `message hello`, `message (again )+`, `message key \[redacted:aws-access-key\]`, `closed 1000 ?`,
				`open "permessage-deflate"`, `closed 1008 .*binary messages are not allowed`,
				`open "permessage-deflate"`, `closed 1008 .*`,
			}},
			{"operations", []string{`result {"data":{"viewer":"viewer done"}}`, `ended 1008 .*mutation.*`}},
		} {
			t.Run(c.what, func(t *testing.T) {
				o := ask(t, policy, c.what)
				want := regexp.MustCompile(`(?m)\A` + strings.Join(c.wants, `\n`) + `\n\z`)
				if o.status != 0 || !want.MatchString(o.out) {
					t.Errorf("%s: %v\nwant %v", c.what, o, want)
				}
			})
		}
		log, err := os.ReadFile(said)
		fatal(t, err)
		const heard = "graphql viewer [redacted:aws-access-key]\ngraphql viewer \nmcp search_web\necho hello\n"
		if got := string(log); !strings.HasPrefix(got, heard) || strings.Contains(got, "deleteRepository") || strings.Contains(got, "delete_all") ||
			strings.Contains(got, "AKIA") || strings.Contains(got, "not allowed here") || strings.Contains(got, "binary") || !strings.HasSuffix(got, "graphql viewer \n") {
			t.Errorf("the server heard:\n%s", got)
		}
	})
}

// asking runs client.mjs for something, in a sandbox with a policy.
type asking func(t *testing.T, policy, what string, flags ...string) outcome

// withPeers runs f where the server of server.mjs is; said is the file with what that hears.
func withPeers(t *testing.T, f func(t *testing.T, s *scene, said string, ask asking)) {
	t.Helper()
	modules := peers(t)
	inScene(t, func(t *testing.T, s *scene) {
		s.requireAll(t, "node")
		npm := filepath.Join(s.dir, "npm")
		copyTree(t, modules, npm)
		said, work := s.servePeers(t, npm), s.work(t)
		f(t, s, said, func(t *testing.T, policy, what string, flags ...string) outcome {
			t.Helper()
			args := append([]string{"run", "--mode", "platform", "--policy", policy, "--workdir", work, "--upstream-ca", filepath.Join(s.dir, "root.pem"), "--env", "HOME=" + work}, flags...)
			return s.sallyport(t, append(args, "--", "sh", "-c", unset+"exec node "+filepath.Join(npm, "client.mjs")+" "+what+" "+allowedHost)...)
		})
	})
}

// peers is the directory of test/programs/npm, with its packages.
func peers(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("npm")
	fatal(t, err)
	testkit.Require(t, testkit.Requirement{Name: "the packages of test/programs/npm", Check: func() error {
		for _, p := range []string{"graphql-ws", "@grpc/grpc-js"} {
			if _, err := os.Stat(filepath.Join(dir, "node_modules", p)); err != nil {
				return err
			}
		}
		return nil
	}})
	return dir
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-r", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}

// servePeers starts server.mjs on the other host and returns the file with what it says.
func (s *scene) servePeers(t *testing.T, npm string) (said string) {
	ca := testkit.NewAuthority(t)
	fatal(t, os.WriteFile(filepath.Join(s.dir, "root.pem"), ca.PEM, 0o644))
	return s.startNode(t, allowedAddr, ca.Leaf(t, allowedHost), filepath.Join(npm, "server.mjs"))
}

// startNode starts a server for a certificate at port 443 of an address, which
// are the script's last arguments, and returns the file with what it says.
func (s *scene) startNode(t *testing.T, addr string, leaf tls.Certificate, args ...string) (said string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	fatal(t, err)
	dir := t.TempDir()
	write := func(file, kind string, der []byte) string {
		fatal(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644))
		return file
	}
	said = filepath.Join(dir, "said")
	out, err := os.Create(said)
	fatal(t, err)
	t.Cleanup(func() { out.Close() })
	server := exec.Command("node", append(args, addr, write(filepath.Join(dir, "cert"), "CERTIFICATE", leaf.Certificate[0]), write(filepath.Join(dir, "key"), "PRIVATE KEY", key))...)
	server.Stdout, server.Stderr = out, os.Stderr
	s.n.Start(t, server)
	await(t, args[0], net.JoinHostPort(addr, "443"))
	return said
}

// sallyport runs the program under test.
func (s *scene) sallyport(t *testing.T, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = []string{"PATH=" + s.path}
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Errorf("still running after %v: %s", runLimit, fmt.Sprint(args))
	}
	return split(outcome{status: cmd.ProcessState.ExitCode(), out: string(b)})
}
