package cli

import (
	"github.com/spf13/cobra"

	"sallyport/internal/policy"
)

func newPolicySchema(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "print the JSON schema of policies, for editors",
		Example: "  sallyport policy schema > sallyport.schema.json\n  # first line of a policy: # yaml-language-server: $schema=sallyport.schema.json",
		Args:    noCommand,
		RunE: func(*cobra.Command, []string) error {
			schema, err := policy.Schema()
			if err != nil {
				return err
			}
			_, err = s.Out.Write(schema)
			return err
		},
	}
}
