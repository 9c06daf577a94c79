package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func newMan(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:    "man",
		Short:  "print the manual page, roff",
		Hidden: true,
		Args:   noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := bufio.NewWriter(s.Out)
			manPage(w, cmd.Root())
			return w.Flush()
		},
	}
}

// manPage writes one page for the whole tree of commands, from the same words
// that --help prints.
func manPage(w io.Writer, root *cobra.Command) {
	fmt.Fprintf(w, ".TH SALLYPORT 1 \"\" \"%s\"\n", roff(Version()))
	fmt.Fprintf(w, ".SH NAME\nsallyport \\- %s\n", roff(root.Short))
	fmt.Fprintf(w, ".SH SYNOPSIS\n.B sallyport\n.I command\n.RI [ flags ]\n")
	fmt.Fprintf(w, ".SH DESCRIPTION\n%s\n.SH COMMANDS\n", roff(root.Long))
	manCommands(w, root)
	fmt.Fprintf(w, ".SH EXIT STATUS\n%s\n", roff(`0 on success, 1 if a check found something, 2 for a wrong command line.
Under run: the program's own status, 128+n when signal n ended it, 125 when
sallyport refused, 126 when the program cannot be executed, 127 when it was not
found.`))
}

func manCommands(w io.Writer, parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if c.Hidden || c.Name() == "help" {
			continue
		}
		if c.HasAvailableSubCommands() {
			manCommands(w, c)
			continue
		}
		fmt.Fprintf(w, ".SS %s\n", roff(strings.TrimPrefix(c.UseLine(), "sallyport ")))
		text := c.Long
		if text == "" {
			text = c.Short
		}
		fmt.Fprintf(w, "%s\n", roff(text))
		if flags := c.NonInheritedFlags().FlagUsages(); flags != "" {
			fmt.Fprintf(w, ".PP\n.nf\n%s\n.fi\n", roff(strings.TrimRight(flags, "\n")))
		}
		if c.Example != "" {
			fmt.Fprintf(w, ".PP\n.nf\n%s\n.fi\n", roff(c.Example))
		}
	}
}

// roff escapes text; a blank line becomes a paragraph, and an indented line
// keeps its break (which does no harm where lines are not filled).
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\[u2026]`, "→", `\->`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		switch {
		case l == "":
			lines[i] = ".PP"
		case strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'"):
			lines[i] = `\&` + l
		case strings.HasPrefix(l, " "):
			lines[i] = ".br\n" + l
		}
	}
	return strings.Join(lines, "\n")
}
