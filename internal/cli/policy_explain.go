package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport/internal/event"
)

const policyExplainHelp = `Explains a denial by the id that its line ended with: who wanted what, why it
was refused, and the narrowest rule that would allow it. The newest denial with
the id is taken. Add a rule only if you want the program to have the access.

Denials of your own sessions are kept in $XDG_STATE_HOME/sallyport (by default
~/.local/state/sallyport); --events names a file that run --events wrote.`

func newPolicyExplain(s Streams) *cobra.Command {
	var events string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "explain ID",
		Short:   "explain a denial",
		Long:    policyExplainHelp,
		Example: "  sallyport policy explain 7f3a",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("expected the id of one denial, got %d", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			files := []string{events}
			if events == "" {
				path := journalPath(os.Getenv)
				files = []string{path, path + ".old"}
			}
			e, err := findDenial(files, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(s.Out, e)
			}
			_, err = io.WriteString(s.Out, explain(e))
			return err
		},
	}
	cmd.Flags().StringVar(&events, "events", "", "look into this `FILE` of run --events")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the event")
	cmd.MarkFlagFilename("events")
	return cmd
}

// findDenial returns the last denial with the id in the first file that has
// one.
func findDenial(files []string, id string) (event.Event, error) {
	for _, name := range files {
		e, found, err := lastDenial(name, id)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && len(files) > 1) {
			return e, plainPathError(err)
		}
		if found {
			return e, nil
		}
	}
	return event.Event{}, fmt.Errorf("no denial has the id %q", id)
}

func lastDenial(name, id string) (last event.Event, found bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return last, false, err
	}
	defer f.Close()
	uid, _ := json.Marshal(id)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), uid) {
			continue
		}
		var e event.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Metadata.UID == id && e.DispositionID == event.Blocked {
			last, found = e, true
		}
	}
	return last, found, lines.Err()
}

// explain is the denial in sentences. All of it passes through event.Escape:
// the file holds what an untrusted program chose.
func explain(e event.Event) string {
	var b strings.Builder
	row := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-8s %s\n", label, event.Escape(text))
		}
	}
	row("denied", e.DstEndpoint.String())
	if r := e.HTTPRequest; r != nil {
		row("request", r.HTTPMethod+" "+r.URL.Path)
	}
	row("when", time.UnixMilli(e.Time).UTC().Format(time.RFC3339))
	exe, lineage := program(e)
	row("program", exe)
	row("from", lineage)
	why := e.StatusDetail
	if why == "" {
		why = strings.ReplaceAll(e.StatusCode, "_", " ")
	}
	row("why", why)
	row("code", e.StatusCode)
	if e.Policy != nil {
		row("policy", e.Policy.Name+", generation "+e.Policy.Version)
	}
	if e.FirewallRule != nil {
		row("rule", strings.TrimSpace(e.FirewallRule.Name+" "+e.FirewallRule.Desc))
	}
	if rule := narrowestRule(e); rule != "" {
		b.WriteString("\nthis would allow it, for every request to that host and port:\n\n" + rule)
	}
	return b.String()
}

// program is the executable and its parents, nearest first.
func program(e event.Event) (exe, lineage string) {
	if e.Actor == nil || e.Actor.Process == nil {
		return "", ""
	}
	p := e.Actor.Process
	if p.File != nil {
		exe = p.File.Path
	}
	var parents []string
	for _, a := range p.Ancestry {
		parents = append(parents, a.Path)
	}
	return exe, strings.Join(parents, " ← ")
}

// allowable are the reasons that a rule in network_policies can answer.
var allowable = map[string]bool{
	"no_policy_for_host": true, "port_not_allowed": true, "binary_not_allowed": true,
}

// narrowestRule is YAML that would allow the denied connection, or nothing
// where no rule could or where a name is not plain enough to be pasted.
func narrowestRule(e event.Event) string {
	exe, _ := program(e)
	to := e.DstEndpoint
	if !allowable[e.StatusCode] || to == nil || to.Hostname == "" || to.Port == 0 || exe == "" {
		return ""
	}
	if event.Escape(exe) != exe || strings.ContainsAny(exe, "*?[{\"") || strings.ContainsFunc(to.Hostname, notInHost) {
		return ""
	}
	key := strings.Trim(strings.Map(func(r rune) rune {
		if r == '.' || r == ':' {
			return '-'
		}
		return r
	}, to.Hostname), "-")
	return fmt.Sprintf(`network_policies:
  %s:
    endpoints:
      - {host: %q, port: %d}
    binaries: [{path: %q}]
`, key, to.Hostname, to.Port, exe)
}

func notInHost(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.')
}
