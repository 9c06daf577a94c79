package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"sallyport/internal/policy"
)

const policyFmtHelp = `Prints a policy in the canonical layout; comments stay. With --write the file is
replaced, with --check nothing is printed and the exit status is 1 if the file
is laid out differently.`

func newPolicyFmt(s Streams) *cobra.Command {
	var write, check bool
	cmd := &cobra.Command{
		Use:               "fmt FILE",
		Short:             "print a policy in the canonical layout",
		Long:              policyFmtHelp,
		Args:              oneFile,
		ValidArgsFunction: completePolicies,
		RunE: func(_ *cobra.Command, args []string) error {
			if write && check {
				return usagef("expected --write or --check, not both")
			}
			src, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			if _, _, err := policy.Parse(args[0], src); err != nil {
				return err // with the file's name, which Format does not know
			}
			got, err := policy.Format(src)
			if err != nil {
				return err
			}
			same := string(got) == string(src)
			switch {
			case check && same, write && same:
				return nil
			case check:
				return fmt.Errorf("%s: not in the canonical layout", args[0])
			case write:
				return replaceFile(args[0], got)
			}
			_, err = s.Out.Write(got)
			return err
		},
	}
	cmd.Flags().BoolVarP(&write, "write", "w", false, "replace the file")
	cmd.Flags().BoolVar(&check, "check", false, "only tell whether the layout is canonical")
	return cmd
}

// replaceFile puts text in the place of a file at once, keeping its mode.
func replaceFile(name string, text []byte) error {
	info, err := os.Stat(name)
	if err != nil {
		return plainPathError(err)
	}
	tmp := name + ".sallyport"
	if err := os.WriteFile(tmp, text, info.Mode().Perm()); err != nil {
		return plainPathError(err)
	}
	if err := os.Rename(tmp, name); err != nil {
		os.Remove(tmp)
		return plainPathError(err)
	}
	return nil
}
