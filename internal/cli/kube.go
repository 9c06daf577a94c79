package cli

import "github.com/spf13/cobra"

func newKube(s Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kube",
		Short: "run the sandbox in a Kubernetes pod",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKubeManifest(s))
	return cmd
}
