package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// TestLifeIsAnEvent: that the supervisor and the agent begin and end is told as
// docs/events.md says.
func TestLifeIsAnEvent(t *testing.T) {
	for _, tt := range []struct {
		name    string
		command []string
		exit    string
	}{
		{"agent", []string{"sh", "-c", "exit 3"}, "3"},
		{"agent that a signal ends", []string{"sh", "-c", "kill -9 $$"}, fmt.Sprint(128 + int(syscall.SIGKILL))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "events.jsonl")
			out, _ := try(t, nil, spec{Command: tt.command, Events: file})
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var got []string
			for line := range bytes.Lines(text) {
				var e struct {
					Class    int  `json:"class_uid"`
					Activity int  `json:"activity_id"`
					Exit     *int `json:"exit_code"`
					Process  struct {
						PID int `json:"pid"`
					}
				}
				if err := json.Unmarshal(line, &e); err != nil {
					t.Fatalf("%v: %s", err, line)
				}
				what := fmt.Sprintf("%d/%d", e.Class, e.Activity)
				if e.Exit != nil {
					what += " status " + fmt.Sprint(*e.Exit)
				}
				if e.Class == 1007 && e.Process.PID <= 1 {
					t.Errorf("no process is named: %s", line)
				}
				got = append(got, what)
			}
			// OCSF 1.8: application_lifecycle start and stop, process_activity launch and terminate.
			if want := []string{"6002/3", "1007/1", "1007/2 status " + tt.exit, "6002/4"}; !slices.Equal(got, want) {
				t.Errorf("events %v, want %v\n%s", got, want, out)
			}
		})
	}
}
