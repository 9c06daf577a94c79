package cli

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sallyport/internal/kernel/netns"
)

const cleanupHelp = `Looks for what sandboxes of namespace mode left on this host, and removes it.

A sandbox takes its network along when it ends, also when its supervisor is
killed: nothing has a name that would stay. What can stay is a process that
somebody put into its namespace from outside, or one that outlived supervisor
and guard, and with it the host's end of the veth pair. Such processes are ended
and the pair is removed. Sandboxes whose supervisor lives are left alone.

It needs root. The exit status is 1 if something could not be removed.`

// leftover is one line of cleanup.
type leftover struct {
	netns.Leftover
	Removed bool   `json:"removed"`
	Error   string `json:"error,omitempty"`
}

func newCleanup(s Streams) *cobra.Command {
	var asJSON, dry bool
	cmd := &cobra.Command{
		Use:     "cleanup",
		Short:   "remove what dead sandboxes left on this host",
		Long:    cleanupHelp,
		Example: "  sudo sallyport cleanup --dry-run\n  sudo sallyport cleanup",
		Args:    noCommand,
		RunE: func(*cobra.Command, []string) error {
			found, err := netns.Leftovers()
			if err != nil {
				return err
			}
			list, failed := removeAll(found, dry)
			if asJSON {
				err = writeJSON(s.Out, list)
			} else {
				err = printLeftovers(s.Out, list, dry)
			}
			return errors.Join(err, failed)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "tell what is there and change nothing")
	return cmd
}

func removeAll(found []netns.Leftover, dry bool) (list []leftover, failed error) {
	list = []leftover{}
	for _, f := range found {
		l := leftover{Leftover: f}
		if !dry {
			if err := netns.Remove(f); err != nil {
				l.Error = err.Error()
				failed = &statusError{status: exitFailure}
			} else {
				l.Removed = true
			}
		}
		list = append(list, l)
	}
	return list, failed
}

func printLeftovers(w io.Writer, list []leftover, dry bool) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "nothing is left")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "INTERFACE\tSUPERVISOR\tPROCESSES\t")
	for _, l := range list {
		became := "removed"
		switch {
		case l.Error != "":
			became = l.Error
		case dry:
			became = "left alone"
		}
		fmt.Fprintf(t, "%s\t%d (dead)\t%v\t%s\n", l.Name, l.Owner, l.PIDs, became)
	}
	return t.Flush()
}
