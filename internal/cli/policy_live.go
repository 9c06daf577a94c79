package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"sallyport/internal/supervisor"
)

const policyGetHelp = `Prints the policy that is in force in a running sandbox, as it was written.`

func newPolicyGet(s Streams) *cobra.Command {
	var id string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "get",
		Short:   "print the policy of a running sandbox",
		Long:    policyGetHelp,
		Example: "  sallyport policy get\n  sallyport policy get --sandbox 4711 --json",
		Args:    noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := askSandbox(cmd.Context(), id, supervisor.Question{Ask: supervisor.AskPolicy})
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(s.Out, struct {
					*supervisor.Sandbox
					Document string `json:"document"`
				}{a.Sandbox, a.Document})
			}
			if a.Document == "" {
				return fmt.Errorf("sandbox %s runs under the %s, which has no document", a.Sandbox.ID, a.Sandbox.Policy)
			}
			_, err = io.WriteString(s.Out, a.Document)
			return err
		},
	}
	sandboxFlag(cmd, &id)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

const policySetHelp = `Puts a policy in force in a running sandbox: all of it or, if anything is wrong
with it, nothing, and what is in force stays.

network_policies and network_middlewares can change. The other sections describe
walls that are built once, and must be those that the sandbox was started with.
Connections that the new policy does not allow are closed.`

func newPolicySet(s Streams) *cobra.Command {
	var id string
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "set FILE",
		Short:             "change the policy of a running sandbox",
		Long:              policySetHelp,
		Example:           "  sallyport policy set dev.yaml",
		Args:              oneFile,
		ValidArgsFunction: completePolicies,
		RunE: func(cmd *cobra.Command, args []string) error {
			document, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			name, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			a, err := askSandbox(cmd.Context(), id, supervisor.Question{Ask: supervisor.AskSet, Name: name, Document: string(document)})
			if err != nil {
				if a.Change != nil {
					err = fmt.Errorf("%w\ngeneration %d stays in force", err, a.Change.Generation)
				}
				return err
			}
			for _, w := range a.Change.Warnings {
				sayf(s.Err, "warning: %s", w)
			}
			if asJSON {
				return json.NewEncoder(s.Out).Encode(a.Change)
			}
			fmt.Fprintf(s.Out, "generation %d is in force, %d connections were closed\n", a.Change.Generation, a.Change.Closed)
			return nil
		},
	}
	sandboxFlag(cmd, &id)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
