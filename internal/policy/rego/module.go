package rego

import (
	"embed"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

//go:embed *.rego
var sources embed.FS

// builtins is every built-in function that the modules may call. It is a list of what is needed and not of what
// is forbidden: whatever talks to the network, reads a clock, the environment or randomness, signs, or fetches a
// schema does not exist for the compiler.
var builtins = []*ast.Builtin{
	ast.And,      // a & b, of sets
	ast.Equal,    // ==
	ast.Equality, // unification
	ast.NotEqual, // !=
}

// The questions that are put to the modules. The answer is bound to the variable of that name.
const (
	askAdmitted  = "answer = data.sallyport.egress.admitted"
	askReason    = "answer = data.sallyport.egress.reason"
	askTaking    = "answer = data.sallyport.request.taking"
	askPermitted = "answer = data.sallyport.request.permitted"
	askAudited   = "answer = data.sallyport.request.audited"
	askRefusing  = "answer = data.sallyport.request.refusing"
	askUnmatched = "answer = data.sallyport.request.unmatched"
	answer       = ast.Var("answer")
)

// program is the compiled modules and the questions. It holds nothing of a policy and is safe for use by several
// goroutines.
type program struct {
	compiler *ast.Compiler

	admitted, reason                                ast.Body
	taking, permitted, audited, refusing, unmatched ast.Body
}

// newProgram compiles the modules that are shipped inside the program.
func newProgram() (*program, error) {
	modules, err := shipped()
	if err != nil {
		return nil, fmt.Errorf("bug: rego: %w", err)
	}
	return compileModules(modules, builtins)
}

// shipped are the modules inside the program, file name → source.
func shipped() (map[string]string, error) {
	entries, err := sources.ReadDir(".")
	if err != nil {
		return nil, err
	}
	modules := make(map[string]string, len(entries))
	for _, entry := range entries {
		src, err := sources.ReadFile(entry.Name())
		if err != nil {
			return nil, err
		}
		modules[entry.Name()] = string(src)
	}
	return modules, nil
}

// compileModules compiles modules (file name → source) that may use Rego version 1 and the given functions.
func compileModules(modules map[string]string, functions []*ast.Builtin) (*program, error) {
	capabilities := &ast.Capabilities{Builtins: functions, Features: []string{ast.FeatureRegoV1}}
	opts := ast.ParserOptions{Capabilities: capabilities, RegoVersion: ast.RegoV1}
	parsed := make(map[string]*ast.Module, len(modules))
	for name, src := range modules {
		m, err := ast.ParseModuleWithOpts(name, src, opts)
		if err != nil {
			return nil, fmt.Errorf("bug: rego: %w", err)
		}
		parsed[name] = m
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities)
	if compiler.Compile(parsed); compiler.Failed() {
		return nil, fmt.Errorf("bug: rego: %w", compiler.Errors)
	}
	p := &program{compiler: compiler}
	for question, body := range map[string]*ast.Body{
		askAdmitted: &p.admitted, askReason: &p.reason,
		askTaking: &p.taking, askPermitted: &p.permitted, askAudited: &p.audited, askRefusing: &p.refusing, askUnmatched: &p.unmatched,
	} {
		asked, err := ast.ParseBodyWithOpts(question, opts)
		if err != nil {
			return nil, fmt.Errorf("bug: rego: %w", err)
		}
		if *body, err = compiler.QueryCompiler().Compile(asked); err != nil {
			return nil, fmt.Errorf("bug: rego: %w", err)
		}
	}
	return p, nil
}
