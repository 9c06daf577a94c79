package rego

import (
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// TestModules: the shipped modules are as `opa fmt` writes them.
func TestModules(t *testing.T) {
	entries, err := sources.ReadDir(".")
	if err != nil || len(entries) == 0 {
		t.Fatalf("ReadDir = %v, %v, want modules", entries, err)
	}
	for _, entry := range entries {
		t.Run("formatted/"+entry.Name(), func(t *testing.T) {
			src, err := sources.ReadFile(entry.Name())
			if err != nil {
				t.Fatal(err)
			}
			want, err := format.SourceWithOpts(entry.Name(), src, format.Opts{RegoVersion: ast.RegoV1})
			if err != nil {
				t.Fatal(err)
			}
			if string(src) != string(want) {
				t.Errorf("%s is not formatted, want:\n%s", entry.Name(), want)
			}
		})
	}
}

// TestBuiltins: what could reach outside of a decision does not compile, and nothing that is not needed does.
func TestBuiltins(t *testing.T) {
	for name, call := range map[string]string{
		"http.send":            `http.send({"method": "GET", "url": "http://127.0.0.1"})`,
		"net.lookup_ip_addr":   `net.lookup_ip_addr("a.example")`,
		"opa.runtime":          `opa.runtime()`,
		"rand.intn":            `rand.intn("x", 2)`,
		"time.now_ns":          `time.now_ns()`,
		"uuid.rfc4122":         `uuid.rfc4122("x")`,
		"io.jwt.encode_sign":   `io.jwt.encode_sign({}, {}, {})`,
		"encode_sign_raw":      `io.jwt.encode_sign_raw("", "", "")`,
		"io.jwt.decode_verify": `io.jwt.decode_verify("", {})`,
		"sign_req":             `providers.aws.sign_req({}, {}, 0)`,
		"json.match_schema":    `json.match_schema({}, {})`,
		"json.verify_schema":   `json.verify_schema({})`,
		"trace":                `trace("x")`,
		"print":                `print("x")`,
	} {
		t.Run("refused/"+name, func(t *testing.T) {
			src := "package sallyport.egress\n\nadmitted contains x if x := " + call + "\n"
			_, err := compileModules(map[string]string{"x.rego": src}, builtins)
			if err == nil || !strings.Contains(err.Error(), "undefined function") {
				t.Errorf("compiling %s = %v, want an undefined function", call, err)
			}
		})
	}
	for i, b := range builtins {
		t.Run("needed/"+b.Name, func(t *testing.T) {
			modules, err := shipped()
			if err != nil {
				t.Fatal(err)
			}
			others := slices.Delete(slices.Clone(builtins), i, i+1)
			if _, err := compileModules(modules, others); err == nil {
				t.Errorf("the modules compile without %s, want no built-in that is not needed", b.Name)
			}
		})
	}
}
