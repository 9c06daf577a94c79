package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
)

// maxPolicy is one byte more than a policy may have, so that the parser sees
// that it is too long.
const maxPolicy = 256<<10 + 1

func newPolicy(s Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "check, format, explain, compare and change policies",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyCheck(s), newPolicyFmt(s), newPolicySchema(s), newPolicyExplain(s), newPolicyDiff(s), newPolicyGet(s), newPolicySet(s))
	return cmd
}

// loadPolicy reads a policy file and refuses what this version cannot enforce.
func loadPolicy(name string) (*policy.Policy, []policy.Warning, error) {
	src, err := readPolicy(name)
	if err != nil {
		return nil, nil, err
	}
	return supervisor.ReadPolicy(name, src)
}

func readPolicy(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", plainPathError(err))
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxPolicy))
	if err != nil {
		return nil, fmt.Errorf("policy: %w", plainPathError(err))
	}
	return src, nil
}

// plainPathError is "NAME: no such file or directory" without the system call.
func plainPathError(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}

// oneFile takes exactly one policy file.
func oneFile(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("expected one policy file, got %d", len(args))
	}
	return nil
}

func completePolicies(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}
