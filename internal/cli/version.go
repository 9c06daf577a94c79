package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionInfo is what version --json prints; the names are stable.
type versionInfo struct {
	Version  string `json:"version"`            // module version, or "devel"
	Revision string `json:"revision,omitempty"` // commit that was built
	Time     string `json:"time,omitempty"`     // of that commit, RFC 3339
	Modified bool   `json:"modified"`           // built with changes on top
	Go       string `json:"go"`
	Platform string `json:"platform"` // os/arch
}

func newVersion(s Streams) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  noCommand,
		RunE: func(*cobra.Command, []string) error {
			info := buildInfo(debug.ReadBuildInfo())
			if asJSON {
				return writeJSON(s.Out, info)
			}
			_, err := fmt.Fprintln(s.Out, info)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// Version is the short version text of this binary.
func Version() string { return buildInfo(debug.ReadBuildInfo()).Version }

func buildInfo(b *debug.BuildInfo, ok bool) versionInfo {
	info := versionInfo{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if !ok {
		return info
	}
	if v := b.Main.Version; v != "" && v != "(devel)" {
		info.Version = v
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Revision = s.Value
		case "vcs.time":
			info.Time = s.Value
		case "vcs.modified":
			info.Modified = s.Value == "true"
		}
	}
	return info
}

func (v versionInfo) String() string {
	text := "sallyport " + v.Version
	if v.Revision != "" {
		text += " (" + v.Revision[:min(12, len(v.Revision))]
		if v.Modified {
			text += ", modified"
		}
		text += ")"
	}
	return text + " " + v.Platform + " " + v.Go
}

// writeJSON prints v for machines: two-space indent, no HTML escapes.
func writeJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
