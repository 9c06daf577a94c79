package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sallyport/internal/event"
	"sallyport/internal/supervisor"
)

// rootControl is where root's sandboxes have their control sockets: the agent's
// user owns the directory below it, because root's agent is not root.
const rootControl = "/run/sallyport"

// controlBase is the directory below which the control sockets of this user are;
// empty without a home.
func controlBase(getenv func(string) string, uid int) string {
	dir := getenv("XDG_RUNTIME_DIR")
	state := stateDir(getenv)
	switch {
	case filepath.IsAbs(dir) && (uid != 0 || enterable(dir)):
		return filepath.Join(dir, "sallyport")
	case uid == 0:
		return rootControl
	case state == "":
		return ""
	}
	return filepath.Join(state, "run")
}

// enterable says whether a user who is not root can get to what is in dir.
func enterable(dir string) bool {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 == 0 {
			return false
		}
	}
	return true
}

const psHelp = `Lists the sandboxes of this user that run and have a control socket.

A sandbox is named by its id, which --sandbox of the other commands takes.`

func newPs(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ps",
		Short:   "list the sandboxes that run",
		Long:    psHelp,
		Example: "  sallyport ps\n  sallyport ps --json",
		Args:    noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := runningSandboxes(cmd.Context())
			if err != nil {
				return err
			}
			list := slices.SortedFunc(maps.Values(all), func(a, b supervisor.Sandbox) int { return a.Since.Compare(b.Since) })
			if asJSON {
				if list == nil {
					list = []supervisor.Sandbox{}
				}
				return writeJSON(s.Out, list)
			}
			return printSandboxes(s, list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printSandboxes(s Streams, list []supervisor.Sandbox) error {
	if len(list) == 0 {
		sayf(s.Err, "no sandbox of yours is running")
		return nil
	}
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tPOLICY\tGENERATION\tSINCE\tCOMMAND")
	for _, b := range list {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", event.Escape(b.ID), event.Escape(b.Policy), b.Generation, b.Since.UTC().Format(time.RFC3339), event.Escape(strings.Join(b.Command, " ")))
	}
	return t.Flush()
}

func runningSandboxes(ctx context.Context) (map[string]supervisor.Sandbox, error) {
	return supervisor.Running(ctx, controlBase(os.Getenv, os.Getuid()))
}

// sandboxFlag adds --sandbox.
func sandboxFlag(cmd *cobra.Command, id *string) {
	cmd.Flags().StringVar(id, "sandbox", "", "the sandbox with this `ID`, as ps shows it; default: the only one")
	cmd.RegisterFlagCompletionFunc("sandbox", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		all, _ := runningSandboxes(cmd.Context())
		var ids []string
		for _, b := range all {
			ids = append(ids, b.ID+"\t"+strings.Join(b.Command, " "))
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	})
}

// askSandbox puts a question to the sandbox with an id, or to the only one.
func askSandbox(ctx context.Context, id string, q supervisor.Question) (supervisor.Answer, error) {
	all, err := runningSandboxes(ctx)
	if err != nil {
		return supervisor.Answer{}, err
	}
	socket, err := supervisor.Choose(all, id)
	if err != nil {
		return supervisor.Answer{}, err
	}
	a, err := supervisor.Ask(ctx, socket, q)
	if err == nil && a.Problem != "" {
		err = errors.New(a.Problem)
	}
	return a, err
}
