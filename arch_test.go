// Package sallyport has no code of its own: its test is the house plan. See
// ARCHITECTURE.md for the words; where this test and the words differ, this
// test is right. To change the plan, change a row here and say why in it.
package sallyport

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "sallyport/"

// A room is named by its directory; "x/..." means x and everything below it,
// and "tests" every _test.go file, the testkit and the harness in test/.

// floors assigns each room to its floor. A room imports rooms of lower floors;
// what else it may import is a row of edges.
var floors = []struct {
	room  string
	floor int
}{
	{"api/...", 1},
	{"internal/kernel/...", 1},
	{"internal/policy/...", 1},
	{"internal/secret/...", 1},
	{"internal/event/...", 1},
	{"internal/kube/...", 1},
	{"internal/confine/...", 2},
	{"internal/egress/...", 2},
	{"internal/supervisor/...", 3},
	{"internal/attack/...", 3},
	{"internal/pod/...", 3},
	{"internal/cli/...", 3},
	{"internal/testkit/...", 4}, // only tests import it
	{"cmd/...", 5},
	{"test/...", 5},
	{"deploy/...", 5},
}

// edges are the imports that floors alone would refuse.
var edges = []struct{ from, to, why string }{
	{"api/...", "api/...", "generated clients and their messages"},
	{"internal/cli", "internal/supervisor", "run starts the supervisor in its own process"},
	{"internal/cli", "internal/attack", "attack is a command"},
	{"internal/attack", "internal/supervisor", "every case goes through the production entry point"},
	{"internal/kernel/probe", "internal/kernel/...", "probes an interface by using the room that wraps it"},
	{"internal/confine", "internal/confine/...", "a parent may import its children"},
	{"internal/policy", "internal/policy/match", "a parent may import its children"},
	{"internal/policy", "internal/policy/profile", "a parent may import its children"},
	{"internal/policy/profile", "internal/secret", "a profile says how the placeholders of its keys look"},
	{"internal/secret/source", "internal/secret", "what a source gives is a secret"},
	{"internal/policy/rego", "internal/policy", "compiles the language that its parent defines"},
	{"internal/policy/rego", "internal/policy/match", "decides with the same matchers that validation used"},
	{"internal/confine/gate", "internal/egress/identity", "what the gate books is an identity"},
	{"internal/egress/proxy", "internal/egress/address", "judges every address before it dials"},
	{"internal/egress/proxy", "internal/egress/identity", "serves connections that an identity came with"},
	{"internal/egress/proxy", "internal/egress/l7/...", "reads the requests that it judges"},
	{"internal/egress/dns", "internal/egress/address", "answers only with addresses that could be dialled"},
	{"internal/egress/l7/graphql", "internal/egress/l7/jsonval", "a body that is JSON is read by the one exact reader"},
	{"internal/egress/l7/jsonrpc", "internal/egress/l7/jsonval", "a body that is JSON is read by the one exact reader"},
	{"internal/egress/l7/mcp", "internal/egress/l7/jsonrpc", "MCP's messages are JSON-RPC messages"},
	{"internal/egress/l7/mcp", "internal/egress/l7/jsonval", "a body that is JSON is read by the one exact reader"},
	{"internal/egress/proxy", "internal/egress/middleware", "takes what the rules allow through what the policy puts behind them"},
	{"internal/pod", "internal/supervisor", "a pod's entry point starts the supervisor in its own process"},
	{"test/...", "test/...", "a harness and its parts"},
	{"test/kubernetes/...", "deploy/image/oci", "test images are written like the real ones"},
	{"deploy/image", "deploy/image/oci", "what is in the image, and how an image is written"},
}

// doors lists who may import a third-party module.
var doors = []struct {
	module string
	rooms  []string
}{
	{"github.com/open-policy-agent/opa", []string{"internal/policy/rego"}},
	{"github.com/spf13/cobra", []string{"internal/cli"}},
	{"connectrpc.com/connect", []string{"api/...", "internal/egress/middleware"}},
	{"github.com/coder/websocket", []string{"tests"}},
	{"github.com/go-json-experiment/json", []string{"internal/egress/l7/jsonval"}},
	{"github.com/goccy/go-yaml", []string{"internal/policy", "tests"}},
	{"github.com/vektah/gqlparser/v2", []string{"internal/egress/l7/graphql"}},
	{"google.golang.org/protobuf", []string{"api/...", "internal/egress/middleware"}},
	{"golang.org/x/net/idna", []string{"internal/policy/match"}},
	{"golang.org/x/net/bpf", []string{"internal/kernel/...", "internal/confine/...", "tests"}},
	{"golang.org/x/net/http2", []string{"tests"}}, // which send frames that no client of net/http would
	{"golang.org/x/net/http2/hpack", []string{"tests"}},
	{"golang.org/x/net/dns/dnsmessage", []string{"internal/egress/dns", "tests"}},
	{"golang.org/x/sys/unix", []string{"internal/kernel/...", "internal/confine/...", "internal/egress/...", "internal/supervisor", "internal/pod", "internal/attack/...", "tests"}},
	{"golang.org/x/crypto/x509roots/fallback", []string{"deploy/image"}},
	{"golang.org/x/term", []string{"internal/kernel/pty", "internal/supervisor", "internal/cli", "tests"}},
	{"github.com/creack/pty", []string{"internal/kernel/pty", "internal/supervisor", "tests"}},
	{"github.com/vishvananda/netlink", []string{"internal/kernel/netns", "tests"}},
	{"github.com/google/nftables", []string{"internal/kernel/nft", "tests"}},
	{"github.com/mdlayher/netlink", []string{"internal/kernel/nft", "tests"}},
	{"github.com/zalando/go-keyring", []string{"internal/cli"}},
	{"github.com/google/go-cmp", []string{"tests"}},
	{"github.com/rogpeppe/go-internal", []string{"tests"}},
	{"go.uber.org/goleak", []string{"tests"}},
	{"pgregory.net/rapid", []string{"tests"}},
}

// bans keep parts of the standard library out of rooms; tests are free.
var bans = []struct{ room, path, why string }{
	{"internal/kernel/...", "net/http", "a kernel interface speaks no HTTP"},
	{"internal/confine/stage", "net/http", "the stage is part of the agent's start"},
	{"internal/confine/stage", "os/exec", "the stage is what starts"},
	{"internal/kernel/...", "log", "floors 1 and 2 return errors"},
	{"internal/policy/...", "log", "floors 1 and 2 return errors"},
	{"internal/event/...", "log", "floors 1 and 2 return errors"},
	{"internal/confine/...", "log", "floors 1 and 2 return errors"},
	{"internal/egress/...", "log", "floors 1 and 2 return errors"},
	{"internal/policy/...", "os/exec", "the language is pure"},
	{"internal/policy/...", "net", "the language is pure"},
	{"internal/policy/...", "net/http", "the language is pure"},
	{"...", "log/slog", "no room has a logger yet; floor 3 may get one here"},
	{"...", "C", "CGO_ENABLED=0"},
	{"...", "expvar", "registers an HTTP handler when imported"},
	{"...", "net/http/pprof", "registers an HTTP handler when imported"},
	{"...", "plugin", "CGO_ENABLED=0"},
	{"...", "math/rand", "math/rand/v2 or crypto/rand"},
}

// banAllowed are the files that a ban leaves out, and why.
var banAllowed = map[string]string{
	"internal/egress/proxy/quiet.go": "net/http writes to standard error unless it is handed a log that discards",
}

// Size caps, in lines.
const (
	maxFile     = 600
	maxTestFile = 1000
	maxFunc     = 90
	maxMakefile = 60
)

// initAllowed are the files with an init function, and why.
var initAllowed = map[string]string{}

// source is one parsed Go file.
type source struct {
	path      string // relative to the root, with slashes
	dir       string
	test      bool
	generated bool // from api/*.proto: its sizes, comments and ways are the generator's
	file      *ast.File
	lines     int
}

func (s source) is(room string) bool {
	if room == "tests" {
		return s.test || within(s.dir, "internal/testkit/...") || within(s.dir, "test/...")
	}
	return within(s.dir, room)
}

// within tells whether a directory belongs to a room.
func within(dir, room string) bool {
	tree, below := strings.CutSuffix(room, "...")
	return dir == strings.TrimSuffix(tree, "/") || below && strings.HasPrefix(dir+"/", tree)
}

// sources parses every Go file of the module.
func sources(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	fset := token.NewFileSet()
	var out []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || path == "bin" || otherModule(path)) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		path = filepath.ToSlash(path)
		dir, _, _ := cutLast(path)
		generated := ast.IsGenerated(f) && within(dir, "api/...")
		out = append(out, source{path, dir, strings.HasSuffix(path, "_test.go"), generated, f, strings.Count(string(src), "\n")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("found %d Go files: is this the root of the module?", len(out))
	}
	return fset, out
}

// otherModule tells whether a directory is the root of a module of its own.
func otherModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func cutLast(path string) (dir, name string, ok bool) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:], true
	}
	return ".", path, false
}

func (s source) imports() []string {
	var out []string
	for _, i := range s.file.Imports {
		path, _ := strconv.Unquote(i.Path.Value)
		out = append(out, path)
	}
	return out
}

func floorOf(dir string) int {
	for _, f := range floors {
		if within(dir, f.room) {
			return f.floor
		}
	}
	return 0
}

func allowedEdge(from, to string) bool {
	for _, e := range edges {
		if within(from, e.from) && within(to, e.to) {
			return true
		}
	}
	return false
}

func TestImportDirection(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		own := floorOf(s.dir)
		if own == 0 && s.dir != "." && !s.test {
			t.Errorf("%s: %s is on no floor; add it to the table", s.path, s.dir)
		}
		for _, path := range s.imports() {
			to, ours := strings.CutPrefix(path, module)
			if !ours || s.test { // a test may look at the house from outside
				continue
			}
			switch {
			case within(to, "internal/testkit/...") && !s.is("tests"):
				t.Errorf("%s: imports %s, which is for tests", s.path, to)
			case s.is("internal/kernel/...") && !within(to, "internal/kernel/..."):
				t.Errorf("%s: imports %s, but kernel rooms import kernel rooms at most", s.path, to)
			case s.is("internal/confine/stage") && !strings.HasPrefix(to, "internal/kernel/"):
				t.Errorf("%s: imports %s, but the stage imports kernel rooms only", s.path, to)
			case floorOf(to) >= own && !allowedEdge(s.dir, to):
				t.Errorf("%s: floor %d imports %s on floor %d; hand it in through an interface, or add a row to edges", s.path, own, to, floorOf(to))
			}
		}
	}
}

func TestDoors(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		for _, path := range s.imports() {
			first, _, _ := strings.Cut(path, "/")
			if !strings.Contains(first, ".") {
				continue
			}
			i := slices.IndexFunc(doors, func(d struct {
				module string
				rooms  []string
			}) bool {
				return path == d.module || strings.HasPrefix(path, d.module+"/")
			})
			if i < 0 {
				t.Errorf("%s: imports %s, which has no door; see docs/dependencies.md and add a row", s.path, path)
				continue
			}
			if !slices.ContainsFunc(doors[i].rooms, s.is) {
				t.Errorf("%s: imports %s, whose door is %s", s.path, path, strings.Join(doors[i].rooms, ", "))
			}
		}
	}
}

func TestBans(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		for _, path := range s.imports() {
			for _, b := range bans {
				if s.is(b.room) && path == b.path && !s.is("tests") && banAllowed[s.path] == "" {
					t.Errorf("%s: imports %s: %s", s.path, path, b.why)
				}
			}
		}
	}
}

var unsafeFile = regexp.MustCompile(`_unsafe(_amd64|_arm64)?(_test)?\.go$`)

// TestUnsafeHasAnAddress keeps unsafe, raw system calls and linkname in files
// that say so in their name.
func TestUnsafeHasAnAddress(t *testing.T) {
	fset, all := sources(t)
	raw := regexp.MustCompile(`^(Raw)?(Vfork)?Syscall(6|NoError)?$`)
	for _, s := range all {
		if s.generated || unsafeFile.MatchString(s.path) {
			continue
		}
		if slices.Contains(s.imports(), "unsafe") {
			t.Errorf("%s: imports unsafe; rename it to *_unsafe.go", s.path)
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && (x.Name == "unix" || x.Name == "syscall") && raw.MatchString(sel.Sel.Name) {
				t.Errorf("%s: %s.%s outside of a *_unsafe.go file", fset.Position(sel.Pos()), x.Name, sel.Sel.Name)
			}
			return true
		})
		for _, g := range s.file.Comments {
			for _, c := range g.List {
				if strings.HasPrefix(c.Text, "//go:linkname") {
					t.Errorf("%s: go:linkname outside of a *_unsafe.go file", fset.Position(c.Pos()))
				}
			}
		}
	}
}

func TestSizes(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		if s.generated {
			continue
		}
		limit := maxFile
		if s.test {
			limit = maxTestFile
		}
		if s.lines > limit {
			t.Errorf("%s: %d lines, cap %d", s.path, s.lines, limit)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test {
				continue
			}
			if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; n > maxFunc {
				t.Errorf("%s: %s has %d lines, cap %d", fset.Position(f.Pos()), f.Name.Name, n, maxFunc)
			}
		}
	}
	mk, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(mk), "\n"); n > maxMakefile {
		t.Errorf("Makefile: %d lines, cap %d", n, maxMakefile)
	}
}

// TestNoInit: a package does nothing when it is imported.
func TestNoInit(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && f.Name.Name == "init" && initAllowed[s.path] == "" && !s.generated {
				t.Errorf("%s: init function", fset.Position(f.Pos()))
			}
		}
	}
}
