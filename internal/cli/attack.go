package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sallyport/internal/attack"
)

const attackHelp = `Tries to get out of the sandbox, on this host and now. Each case runs through the
same start as "run", has a control that must work unsandboxed, and says which
wall stopped it. The exit status is 1 if anything escaped or proved nothing.`

func newAttack(s Streams) *cobra.Command {
	var asJSON, list bool
	var o attack.Options
	var mode string
	cmd := &cobra.Command{
		Use:   "attack",
		Short: "try to get out, and see what stops it",
		Long:  attackHelp,
		Args:  noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if list {
				return attack.List(s.Out)
			}
			var err error
			if o.Mode, err = parseMode(mode); err != nil {
				return err
			}
			if term.IsTerminal(int(s.Err.Fd())) {
				o.Ran = attackProgress(s.Err)
			}
			r, err := attack.Run(cmd.Context(), o)
			if o.Ran != nil {
				fmt.Fprint(s.Err, "\r\x1b[K")
			}
			if err != nil {
				return err
			}
			write := r.Table
			if asJSON {
				write = r.JSON
			}
			if err := write(s.Out); err != nil {
				return err
			}
			if r.Red() {
				return &statusError{status: 1}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&list, "list", false, "list the cases and run none")
	cmd.Flags().StringSliceVar(&o.Only, "only", nil, "run the case `NAME`; may be repeated")
	cmd.Flags().StringVar(&mode, "mode", "", "network enforcement `MODE` of the sandboxes, as for run")
	cmd.RegisterFlagCompletionFunc("mode", completeMode)
	cmd.Flags().IntVar(&o.Races, "races", 0, "run each race `N` times, however long it takes; without it 100,000 times the main one, 10,000 the others, at most 14 s each; a flood has 10,000 threads, or ten times N if that is less")
	return cmd
}

// attackProgress keeps one line of a terminal up to date.
func attackProgress(w io.Writer) func(name string, inside bool) {
	n := 0
	return func(name string, inside bool) {
		where := "unsandboxed"
		if inside {
			where = "in the sandbox"
		}
		n++
		fmt.Fprintf(w, "\r\x1b[K%sattack: %d tried, last %s %s", prefix, n, name, where)
	}
}
