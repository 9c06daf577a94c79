package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

const rootHelp = `Runs a program so that its only way out is a proxy whose rules you wrote.

The program needs no change and you need no privilege: the kernel holds it
(Landlock, seccomp, a supervisor that makes every connection on its behalf).`

const rootExample = `  sallyport run -- sh -c 'curl https://example.com'    nothing is allowed: denied, and told
  sallyport run --policy dev.yaml -- claude            what dev.yaml allows, and nothing else
  sallyport doctor                                     what this host can enforce
  sallyport attack                                     try to get out, here and now`

// newRoot builds the whole tree of commands.
func newRoot(s Streams) *cobra.Command {
	root := &cobra.Command{
		Use:               "sallyport",
		Short:             "run a program whose only way out is a proxy with your rules",
		Long:              rootHelp,
		Example:           rootExample,
		SilenceUsage:      true,
		SilenceErrors:     true,
		Args:              noCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "say more about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("unknown command %q", strings.Join(args, " "))
			}
			return about.Help()
		},
	})
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		newRun(s),
		newPs(s),
		newDoctor(s),
		newCleanup(s),
		newAttack(s),
		newDemo(s),
		newPolicy(s),
		newKube(s),
		newVersion(s),
		newCompletion(s),
		newMan(s),
		newDemoAgent(s),
	)
	return root
}

// noCommand refuses words after a command that takes none.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return usagef("unexpected argument %q", args[0])
	}
	return usagef("unknown command %q", args[0])
}
