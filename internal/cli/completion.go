package cli

import (
	"github.com/spf13/cobra"
)

const completionHelp = `Prints the completion script of a shell.

  bash   source <(sallyport completion bash)
  zsh    sallyport completion zsh > "${fpath[1]}/_sallyport"
  fish   sallyport completion fish | source`

func newCompletion(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "print the completion script of a shell",
		Long:      completionHelp,
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("expected one shell: bash, zsh or fish")
			}
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(s.Out, true)
			case "zsh":
				return root.GenZshCompletion(s.Out)
			case "fish":
				return root.GenFishCompletion(s.Out, true)
			}
			return usagef("no completion for %q, expected bash, zsh or fish", args[0])
		},
	}
}
