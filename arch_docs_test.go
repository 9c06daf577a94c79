package sallyport

import (
	"debug/elf"
	"go/ast"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// binaries are the programs in cmd with what must never be linked into them,
// and how large they may be.
var binaries = []struct {
	name     string
	maxBytes int64
	never    []string // import paths
}{
	{"sallyport", 32 << 20, []string{
		"k8s.io/...", "sigs.k8s.io/...", "database/sql", "modernc.org/...", "github.com/jackc/...", "charm.land/...", "github.com/charmbracelet/...",
		"go.opentelemetry.io/...", "google.golang.org/grpc/...", "github.com/open-policy-agent/opa/v1/rego", "github.com/open-policy-agent/opa/v1/server/...",
		"testing", "net/http/pprof", "expvar", "github.com/rogpeppe/...", "pgregory.net/...", "go.uber.org/goleak/...", "github.com/google/go-cmp/...",
		"sallyport/internal/testkit/...",
	}},
	// every pod starts one and pays for what it links
	{"sallyport-supervisor", 32 << 20, []string{
		"k8s.io/...", "sigs.k8s.io/...", "database/sql", "modernc.org/...", "github.com/jackc/...", "charm.land/...", "github.com/charmbracelet/...",
		"go.opentelemetry.io/...", "google.golang.org/grpc/...", "github.com/open-policy-agent/opa/v1/rego", "github.com/open-policy-agent/opa/v1/server/...",
		"testing", "net/http/pprof", "expvar", "github.com/rogpeppe/...", "pgregory.net/...", "go.uber.org/goleak/...", "github.com/google/go-cmp/...",
		"github.com/spf13/...", "golang.org/x/crypto/x509roots/...", "text/template", "html/template", "flag",
		"sallyport/internal/testkit/...", "sallyport/internal/cli/...", "sallyport/internal/attack/...", "sallyport/internal/kube/...",
	}},
}

// maxDirect is how many modules go.mod may require directly.
const maxDirect = 30

// TestPackageDocs: each package says what it is for, in one file, and for more
// than a sentence where it is a room.
func TestPackageDocs(t *testing.T) {
	_, all := sources(t)
	docs, mains := map[string][]string{}, map[string]bool{}
	for _, s := range all {
		if s.test && s.dir != "." || s.generated {
			continue
		}
		mains[s.dir] = s.file.Name.Name == "main"
		docs[s.dir] = append(docs[s.dir], strings.TrimSpace(s.file.Doc.Text()))
	}
	for dir, texts := range docs {
		texts = slices.DeleteFunc(texts, func(s string) bool { return s == "" })
		name := "Package " + filepath.Base(dir) + " "
		if mains[dir] {
			name = "Command "
		}
		switch {
		case len(texts) == 0:
			t.Errorf("%s: no package doc", dir)
		case len(texts) > 1:
			t.Errorf("%s: %d package docs, want one", dir, len(texts))
		case dir != "." && !strings.HasPrefix(texts[0], name):
			t.Errorf("%s: package doc starts %.30q, want %q", dir, texts[0], name)
		case strings.HasPrefix(dir, "internal/") && strings.Count(texts[0], "\n") < 2:
			t.Errorf("%s: package doc of %d lines; say what it is for, what is not here, what must hold", dir, strings.Count(texts[0], "\n")+1)
		}
	}
}

// TestExportedNamesAreDocumented: a name in a const, var or field list may
// share the list's comment or carry one behind it.
func TestExportedNamesAreDocumented(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		if s.test || s.generated {
			continue
		}
		missing := func(pos token.Pos, name string) {
			t.Errorf("%s: %s is exported and not documented", fset.Position(pos), name)
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !obvious[d.Name.Name] {
					missing(d.Pos(), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if name, ok := undocumented(d, spec); ok {
						missing(spec.Pos(), name)
					}
				}
			}
		}
	}
}

// obvious are methods whose meaning their interface gives.
var obvious = map[string]bool{"Error": true, "String": true, "Unwrap": true, "MarshalJSON": true, "UnmarshalJSON": true, "MarshalText": true, "UnmarshalText": true, "Is": true, "Len": true, "Less": true, "Swap": true}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

func undocumented(d *ast.GenDecl, spec ast.Spec) (string, bool) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		return spec.Name.Name, spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil
	case *ast.ValueSpec:
		for _, n := range spec.Names {
			if n.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
				return n.Name, true
			}
		}
	}
	return "", false
}

func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// TestNamedTestsExist: a page that names a test as its evidence names one that
// there is.
func TestNamedTestsExist(t *testing.T) {
	_, all := sources(t)
	tests := map[string]bool{}
	for _, s := range all {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				tests[f.Name.Name] = true
			}
		}
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	for _, page := range append(pages, "README.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`(Test[A-Z]\\w*)").FindAllStringSubmatch(string(b), -1) {
			if !tests[m[1]] {
				t.Errorf("%s names %s, which is no test", page, m[1])
			}
		}
	}
}

// TestBinaries looks at the programs as they are shipped.
func TestBinaries(t *testing.T) {
	for _, b := range binaries {
		t.Run(b.name, func(t *testing.T) {
			for dep := range strings.FieldsSeq(goTool(t, "list", "-deps", "./cmd/"+b.name)) {
				for _, never := range b.never {
					if within(dep, never) {
						t.Errorf("links %s", dep)
					}
				}
			}
			out := filepath.Join(t.TempDir(), b.name)
			goTool(t, "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./cmd/"+b.name)
			info, err := os.Stat(out)
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() > b.maxBytes {
				t.Errorf("%d bytes, cap %d", info.Size(), b.maxBytes)
			}
			f, err := elf.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, p := range f.Progs {
				if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
					t.Errorf("is not static: has a %v segment", p.Type)
				}
			}
		})
	}
}

// TestDependenciesHaveReasons compares go.mod with docs/dependencies.md.
func TestDependenciesHaveReasons(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) {
		direct = append(direct, m[1])
	}
	if len(direct) == 0 || len(direct) > maxDirect {
		t.Errorf("go.mod requires %d modules directly, want 1 to %d", len(direct), maxDirect)
	}
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^` ]+)` \\|").FindAllStringSubmatch(string(doc), -1) {
		told = append(told, m[1])
	}
	for _, d := range direct {
		if !slices.Contains(told, d) {
			t.Errorf("docs/dependencies.md has no line for %s", d)
		}
	}
	for _, d := range told {
		if !slices.Contains(direct, d) {
			t.Errorf("docs/dependencies.md has a line for %s, which go.mod does not require directly", d)
		}
	}
}
