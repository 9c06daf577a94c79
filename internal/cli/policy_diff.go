package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"sallyport/internal/event"
	"sallyport/internal/policy"
)

const policyDiffHelp = `Says what policy B makes possible that A does not (+), and what it makes
impossible (-): programs, hosts, ports, requests, files and sockets.

It errs on the side of naming: where one pattern may take in another and that
cannot be told, both are named. A change of which nothing is marked with + allows
no more than before. --fail-if-wider makes the exit status 1 otherwise.`

// compared is what policy diff --json prints; the names are stable.
type compared struct {
	A           string              `json:"a"`
	B           string              `json:"b"`
	Wider       bool                `json:"wider"`
	Differences []policy.Difference `json:"differences"`
}

func newPolicyDiff(s Streams) *cobra.Command {
	var asJSON, failIfWider bool
	cmd := &cobra.Command{
		Use:     "diff A B",
		Short:   "say what one policy makes possible that another does not",
		Long:    policyDiffHelp,
		Example: "  sallyport policy diff old.yaml new.yaml\n  sallyport policy diff --fail-if-wider main.yaml proposed.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("expected two policy files, got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: completePolicies,
		RunE: func(_ *cobra.Command, args []string) error {
			return policyDiff(s, args[0], args[1], asJSON, failIfWider)
		},
	}
	cmd.Flags().BoolVar(&failIfWider, "fail-if-wider", false, "exit with 1 if B makes anything possible that A does not")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func policyDiff(s Streams, a, b string, asJSON, failIfWider bool) error {
	before, _, err := loadPolicy(a)
	if err != nil {
		return err
	}
	after, _, err := loadPolicy(b)
	if err != nil {
		return err
	}
	c := compared{A: a, B: b, Differences: policy.Compare(before, after)}
	if c.Differences == nil {
		c.Differences = []policy.Difference{}
	}
	for _, d := range c.Differences {
		c.Wider = c.Wider || d.Wider
		if asJSON {
			continue
		}
		sign := map[bool]string{true: "+", false: "-"}[d.Wider]
		at := ""
		if d.Line > 0 {
			at = fmt.Sprintf("  %s:%d", map[string]string{"a": a, "b": b}[d.In], d.Line)
		}
		fmt.Fprintln(s.Out, sign+" "+event.Escape(d.What+at))
	}
	if asJSON {
		if err := writeJSON(s.Out, c); err != nil {
			return err
		}
	}
	if failIfWider && c.Wider {
		return &statusError{status: exitFailure}
	}
	return nil
}
