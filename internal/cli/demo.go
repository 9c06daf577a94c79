package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

const demoHelp = `Shows the sandbox at work, without a network: a shell script runs twice, on its
own and under "sallyport run", and tries the same things. Small servers on
loopback, a file with a secret and a directory stand for what must not be
reached; they are looked at afterwards, so what is printed is not only the
script's word. The exit status is 1 if anything got out.`

// attempt is one row of the demo.
type attempt struct {
	step    string // as the script calls it
	what    string
	allowed bool   // the policy allows it
	worked  string // prefix of the outcome that means it got through
	stops   []string
	wall    string
}

var attempts = []attempt{
	{"allowed", "GET http://hello.example/, which the policy allows", true, "200", nil, ""},
	{"denied", "GET http://evil.example/", false, "200", []string{"403"}, "policy (proxy)"},
	{"direct", "connect to a service of this host", false, demoConnected, []string{"connection refused", "permission denied"}, "gate"},
	{"mptcp", "the same with MPTCP", false, demoConnected, []string{"protocol not supported"}, "seccomp filter"},
	{"fastopen", "the same with TCP Fast Open", false, demoConnected, []string{"operation not supported", "operation not permitted"}, "seccomp filter"},
	{"beside", "connect to the proxy's port on another address", false, demoConnected, []string{"connection refused", "permission denied"}, "gate"},
	{"secret", "read a file outside of the grants", false, demoSecret, []string{"Permission denied"}, "Landlock"},
	{"write", "write outside of the working directory", false, demoWritten, []string{"Permission denied"}, "Landlock"},
}

// demoRow is one line of the result; --json prints it under these names.
type demoRow struct {
	What    string `json:"what"`
	Alone   string `json:"alone"`
	Inside  string `json:"inside"`
	Wall    string `json:"stopped_by,omitempty"`
	Verdict string `json:"verdict"` // allowed, stopped, untried, ESCAPED or BROKEN
}

func newDemo(s Streams) *cobra.Command {
	var asJSON bool
	var mode string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "show the sandbox at work, without a network",
		Long:  demoHelp,
		Args:  noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if _, err := parseMode(mode); err != nil {
				return err
			}
			return demo(ctx, s, mode, asJSON)
		},
	}
	cmd.Flags().StringVar(&mode, "mode", "", "network enforcement `MODE` of the sandbox, as for run")
	cmd.RegisterFlagCompletionFunc("mode", completeMode)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func demo(ctx context.Context, s Streams, mode string, asJSON bool) error {
	scene, err := newDemoScene(ctx)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	scene.mode = mode
	defer scene.close()
	alone, err := scene.run(ctx, false)
	if err != nil {
		return fmt.Errorf("demo: the script on its own: %w", err)
	}
	inside, err := scene.run(ctx, true)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	rows, red := judgeDemo(alone, inside)
	if asJSON {
		err = writeJSON(s.Out, rows)
	} else {
		err = printDemo(s.Out, rows, inside.stderr)
	}
	if err == nil && red {
		return &statusError{exitFailure, errors.New("demo: not every wall holds on this host; sallyport doctor says more")}
	}
	return err
}

// demoRun is what one run of the script did.
type demoRun struct {
	said   map[string]string // outcome by step
	hits   int               // connections to servers that must not be reached
	wrote  bool              // the file outside exists
	stderr string
}

func judgeDemo(alone, inside demoRun) (rows []demoRow, red bool) {
	for _, a := range attempts {
		r := demoRow{What: a.what, Alone: alone.said[a.step], Inside: inside.said[a.step]}
		worked := strings.HasPrefix(r.Inside, a.worked)
		switch {
		case a.allowed && worked:
			r.Verdict = "allowed"
		case a.allowed:
			r.Verdict = "BROKEN"
		case worked || r.Inside == "":
			r.Verdict = "ESCAPED"
		case !strings.HasPrefix(r.Alone, a.worked):
			r.Verdict = "untried" // this host has no such way out
		default:
			r.Verdict = "stopped"
		}
		if r.Verdict == "stopped" {
			r.Wall = "another wall than expected"
			if slices.ContainsFunc(a.stops, func(s string) bool { return strings.HasPrefix(r.Inside, s) }) {
				r.Wall = a.wall
			}
		}
		red = red || r.Verdict == "ESCAPED" || r.Verdict == "BROKEN"
		rows = append(rows, r)
	}
	if inside.hits > 0 || inside.wrote {
		red = true
		rows = append(rows, demoRow{
			What:   "what the servers and the directory saw",
			Inside: fmt.Sprintf("%d connections, file written: %v", inside.hits, inside.wrote), Verdict: "ESCAPED",
		})
	}
	return rows, red
}

func printDemo(w io.Writer, rows []demoRow, stderr string) error {
	fmt.Fprintf(w, "One shell script, run on its own and in the sandbox:\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  IT TRIED TO\tON ITS OWN\tIN THE SANDBOX\tVERDICT\tSTOPPED BY\n")
	for _, r := range rows {
		wall := r.Wall
		if wall == "" {
			wall = "-"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", r.What, r.Alone, r.Inside, r.Verdict, wall)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nWhat you see on standard error meanwhile:\n\n")
	for line := range strings.Lines(stderr) {
		fmt.Fprintf(w, "  %s\n", strings.TrimRight(line, "\n"))
	}
	_, err := fmt.Fprintf(w, "\nThe same for your own program: sallyport run -- COMMAND\nMore ways out, tried here: sallyport attack\n")
	return err
}

// run runs the script once, alone or under this program's own run command, and
// looks at the outside afterwards.
func (d *demoScene) run(ctx context.Context, sandboxed bool) (demoRun, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	os.Remove(filepath.Join(d.outside, "planted"))
	before := d.hits.Load()
	args := []string{"sh", d.script}
	env := d.environment()
	if sandboxed {
		launch := []string{d.exe, "run", "--policy", d.policy, "--workdir", d.workdir, "--proxy-port", fmt.Sprint(d.proxyPort), "--mode", d.mode}
		for _, kv := range env {
			launch = append(launch, "--env", kv)
		}
		args = append(append(launch, "--"), args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = d.workdir
	cmd.Env = append(cleanEnv(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return demoRun{}, fmt.Errorf("%w\n%s", err, strings.TrimSpace(strings.ReplaceAll(stderr.String(), prefix, "")))
	}
	r := demoRun{said: make(map[string]string), stderr: stderr.String()}
	for line := range strings.Lines(stdout.String()) {
		if step, outcome, ok := strings.Cut(strings.TrimRight(line, "\n"), "\t"); ok {
			r.said[step] = outcome
		}
	}
	d.settle()
	r.hits = int(d.hits.Load() - before)
	_, err := os.Lstat(filepath.Join(d.outside, "planted"))
	r.wrote = err == nil
	return r, nil
}

// cleanEnv is this process's environment without what names a proxy.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasSuffix(strings.ToLower(name), "_proxy")
	})
}
