package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sallyport/internal/policy"
)

const policyCheckHelp = `Reads policy files the way run does and reports what is wrong with them: file,
line, column, the place, and what was expected. The exit status is 1 if any file
has an error; warnings alone leave it 0.`

// checked is one file in the output of policy check --json; the names are
// stable.
type checked struct {
	File     string    `json:"file"`
	OK       bool      `json:"ok"`
	Errors   []problem `json:"errors"`
	Warnings []problem `json:"warnings"`
}

type problem struct {
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

func newPolicyCheck(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "check FILE...",
		Short:   "report what is wrong with policies",
		Long:    policyCheckHelp,
		Example: "  sallyport policy check dev.yaml\n  sallyport policy check --json policies/*.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("expected a policy file")
			}
			return nil
		},
		ValidArgsFunction: completePolicies,
		RunE: func(_ *cobra.Command, args []string) error {
			return policyCheck(s, args, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func policyCheck(s Streams, files []string, asJSON bool) error {
	var all []checked
	failed := false
	for _, name := range files {
		_, warnings, err := loadPolicy(name)
		c := checked{File: name, OK: err == nil, Errors: problems(err), Warnings: []problem{}}
		failed = failed || err != nil
		for _, w := range warnings {
			c.Warnings = append(c.Warnings, problem{Line: w.Line, Message: w.Msg})
			if !asJSON {
				sayf(s.Err, "warning: %s", w)
			}
		}
		if !asJSON && err != nil {
			say(s.Err, err)
		} else if !asJSON {
			fmt.Fprintf(s.Out, "%s: ok\n", name)
		}
		all = append(all, c)
	}
	if asJSON {
		if err := writeJSON(s.Out, all); err != nil {
			return err
		}
	}
	if failed {
		return &statusError{status: exitFailure}
	}
	return nil
}

// problems lists the single errors in err.
func problems(err error) []problem {
	out := []problem{}
	var list policy.Errors
	switch {
	case errors.As(err, &list):
		for _, e := range list {
			out = append(out, problem{e.Line, e.Col, e.Msg})
		}
	case err != nil:
		out = append(out, problem{Message: err.Error()})
	}
	return out
}
