package cli

import (
	"bufio"
	"bytes"
	"context"
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
	"sallyport/internal/policy"
	"sallyport/internal/policy/rego"
)

const policyExplainHelp = `Explains a denial by the id that its line ended with, or a request that was
not made yet: why it is allowed or denied, by which rule, on which line, and the
narrowest rule that would allow it. Add a rule only if you want the program to
have the access.

A denial (ID): the newest with the id is taken. Denials of your own sessions are
kept in $XDG_STATE_HOME/sallyport (by default ~/.local/state/sallyport);
--events names a file that run --events wrote, --sandbox asks one that runs.

A request (URL, or HOST:PORT): it is judged as the proxy would judge it, under
the file that --policy names or the policy of a running sandbox, for the program
that --binary names. The exit status is 1 if it would be denied. Where a name
leads is not looked up.`

const policyExplainExample = `  sallyport policy explain 7f3a
  sallyport policy explain --policy dev.yaml --binary /usr/bin/curl POST https://api.example.com/v1/items
  sallyport policy explain --sandbox 4711 --binary /usr/bin/psql db.example.com:5432
  sallyport policy explain --policy dev.yaml --binary /usr/bin/node --tool search POST https://mcp.example.com/mcp`

func newPolicyExplain(s Streams) *cobra.Command {
	var f requestFlags
	var events string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "explain ID | [METHOD] URL",
		Short:   "explain a denial or a request",
		Long:    policyExplainHelp,
		Example: policyExplainExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 && (len(args) != 2 || strings.ContainsAny(args[0], ":/.")) {
				return usagef("expected the id of one denial, or a method and a URL, got %d words", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 || strings.Contains(args[0], ":") {
				return printRequest(cmd.Context(), s, f, args, asJSON)
			}
			e, err := wantedDenial(cmd.Context(), f.sandbox, events, args[0])
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
	fl := cmd.Flags()
	fl.StringVar(&events, "events", "", "look into this `FILE` of run --events")
	fl.StringVar(&f.policy, "policy", "", "judge the request under this policy `FILE`; default: that of a running sandbox")
	fl.StringVar(&f.binary, "binary", "", "the `PATH` of the program that makes the request")
	fl.StringArrayVar(&f.ancestors, "ancestor", nil, "the `PATH` of a program that started it; may be repeated")
	fl.StringVar(&f.operation, "operation", "", "what a GraphQL request runs, `TYPE:FIELD`")
	fl.StringVar(&f.call, "call", "", "the `METHOD` that a JSON-RPC or MCP request calls")
	fl.StringVar(&f.tool, "tool", "", "the `TOOL` that an MCP request calls")
	fl.BoolVar(&asJSON, "json", false, "print the event, or the decision")
	sandboxFlag(cmd, &f.sandbox)
	cmd.MarkFlagFilename("events")
	cmd.MarkFlagFilename("policy", "yaml", "yml")
	cmd.MarkFlagFilename("binary")
	cmd.MarkFlagFilename("ancestor")
	for _, name := range []string{"operation", "call", "tool"} {
		cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func printRequest(ctx context.Context, s Streams, f requestFlags, words []string, asJSON bool) error {
	x, err := explainRequest(ctx, f, words)
	if err != nil {
		return err
	}
	if asJSON {
		err = writeJSON(s.Out, x)
	} else {
		_, err = io.WriteString(s.Out, x.String())
	}
	if err == nil && !x.Allow {
		return &statusError{status: exitFailure}
	}
	return err
}

// wantedDenial looks for a denial where it was said to be.
func wantedDenial(ctx context.Context, sandbox, events, id string) (event.Event, error) {
	switch {
	case sandbox != "":
		return denialOf(ctx, sandbox, id)
	case events != "":
		return findDenial([]string{events}, id)
	}
	return findDenial(journals(), id)
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
		told, _ := e.Operations()
		for _, o := range told {
			row("asks", o.String())
		}
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
	b.WriteString(narrowestRule(e))
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
	rego.ReasonHost: true, rego.ReasonPort: true, rego.ReasonBinary: true, rego.ReasonRequest: true,
}

// narrowestRule is YAML that would allow what was denied, or nothing where no
// rule could, where a name is not plain enough to be pasted, and where the event
// does not tell what would have to be allowed: what a body held is not recorded.
func narrowestRule(e event.Event) string {
	exe, _ := program(e)
	to := e.DstEndpoint
	if !allowable[e.StatusCode] || to == nil || to.Hostname == "" || to.Port == 0 || exe == "" {
		return ""
	}
	if event.Escape(exe) != exe || strings.ContainsAny(exe, "*?[{\"") || strings.ContainsFunc(to.Hostname, notInHost) {
		return ""
	}
	missing := rego.RuleMissing{Host: to.Hostname, Port: to.Port, Binary: exe}
	if e.StatusCode != rego.ReasonRequest {
		return "\nthis would allow it, for every request to that host and port:\n\n" + renderMissing(missing, policy.Raw, nil)
	}
	r := e.HTTPRequest
	if r == nil || !strings.HasSuffix(e.StatusDetail, " allows "+r.HTTPMethod+" "+r.URL.Path) {
		return ""
	}
	m, ok := matchOf(r)
	if !ok {
		return ""
	}
	but := ""
	if len(m.Query) > 0 {
		but = ", but for the values of its query, which are not recorded"
	}
	return "\nthis would allow it and nothing else" + but + ", beside the rules that are there:\n\n" + renderMissing(missing, policy.REST, &m)
}

func notInHost(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.')
}
