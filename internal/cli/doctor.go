package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sallyport/internal/confine"
	"sallyport/internal/kernel/probe"
	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
)

const doctorHelp = `Tries out what this host can enforce and prints it layer by layer:

  enforced   holds in full
  degraded   holds, but for the hole that is named
  refused    cannot hold; run would refuse to start

and below a layer that does not hold, what to do about it. The last line is the
mode that run takes where neither policy nor --mode names one. Nothing stays
changed: as root, the network of namespace mode is made and taken down again.
The exit status is 1 if platform mode cannot hold here.`

// diagnosis is what doctor --json prints; the names are stable, facts may grow.
type diagnosis struct {
	Platform  modeReport  `json:"platform"`
	Namespace modeReport  `json:"namespace"`
	UserNS    modeReport  `json:"userns"`
	Choice    choice      `json:"choice"`
	Facts     probe.Facts `json:"facts"`
}

// choice is the mode that run takes where nobody names one.
type choice struct {
	Mode string `json:"mode"`
	Why  string `json:"why"`
	Hint string `json:"hint,omitempty"`
}

type modeReport struct {
	Holds  bool           `json:"holds"`
	Layers confine.Report `json:"layers"`
}

func newDoctor(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "tell what this host can enforce",
		Long:  doctorHelp,
		Args:  noCommand,
		RunE: func(*cobra.Command, []string) error {
			d, err := diagnose()
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(s.Out, d)
			} else {
				err = d.print(s.Out)
			}
			if err == nil && !d.Platform.Holds {
				return &statusError{status: exitFailure}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// diagnose asks for a plan under the default policy, exactly as run does.
func diagnose() (diagnosis, error) {
	facts, err := probe.Host()
	if err != nil {
		return diagnosis{}, fmt.Errorf("looking at this host: %w", err)
	}
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	taken := supervisor.Automatic()
	d := diagnosis{Facts: facts, Choice: choice{taken.Mode.String(), taken.Why, taken.Hint}}
	for _, m := range []struct {
		to      *modeReport
		network confine.Network
	}{{&d.Platform, confine.HostNetwork}, {&d.Namespace, confine.VethNetwork}, {&d.UserNS, confine.UserNetwork}} {
		in := confine.Input{Policy: policy.Default(), Workdir: wd, ProxyPort: 3128, Network: m.network, Tried: true}
		plan, err := confine.Build(in, facts)
		var refusal *confine.RefusedError
		switch {
		case errors.As(err, &refusal):
			m.to.Layers = refusal.Layers
		case err != nil:
			return d, err
		default:
			*m.to = modeReport{Holds: true, Layers: plan.Report}
		}
	}
	return d, nil
}

// network is the line about what a mode adds to platform mode.
func (r modeReport) network(mode string) string {
	for _, l := range r.Layers {
		if l.Name == "network" {
			return fmt.Sprintf("  --mode %s\t%s\t%s\n", mode, l.State, l.Detail)
		}
	}
	return fmt.Sprintf("  --mode %s\trefused\twhat platform mode lacks, it lacks too\n", mode)
}

func (d diagnosis) print(w io.Writer) error {
	verdict := "holds on this host"
	if !d.Platform.Holds {
		verdict = "cannot hold on this host"
	}
	fmt.Fprintf(w, "platform mode %s (Linux %s, %s, uid %d)\n\n", verdict, d.Facts.Kernel, d.Facts.Arch, d.Facts.UID)
	if d.Facts.UserKernel != "" {
		fmt.Fprintf(w, "this kernel is a program of another one (%s): what it enforces is only as good as that\n\n", d.Facts.UserKernel)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, l := range d.Platform.Layers {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", l.Name, l.State, l.Detail)
		if l.Remedy != "" {
			fmt.Fprintf(t, "  \t\tremedy: %s\n", l.Remedy)
		}
	}
	fmt.Fprintf(t, "\nthe other modes add\n%s%s", d.Namespace.network("namespace"), d.UserNS.network("userns"))
	if err := t.Flush(); err != nil {
		return err
	}
	if len(d.Facts.BlockedSyscalls) > 0 {
		fmt.Fprintf(w, "\nrefused here before the kernel looks at them: %s\n", strings.Join(d.Facts.BlockedSyscalls, ", "))
	}
	_, err := fmt.Fprintf(w, "\nwithout --mode: %s mode, because %s\n", d.Choice.Mode, d.Choice.Why)
	if err == nil && d.Choice.Hint != "" {
		_, err = fmt.Fprintf(w, "  remedy: %s\n", d.Choice.Hint)
	}
	return err
}
