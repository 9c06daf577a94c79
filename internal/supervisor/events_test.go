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

	"sallyport/internal/event"
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

// TestDenialsAreBounded: so many a second are told of, and how many were not is told with the next one.
func TestDenialsAreBounded(t *testing.T) {
	var b bucket
	for _, c := range []struct {
		second       int64
		denials, ok  int
		missed       int64 // in all
		firstDetails string
	}{
		{1, denialsPerSecond, denialsPerSecond, 0, ""},
		{2, 10 * denialsPerSecond, denialsPerSecond, 0, ""},
		{3, 1, 1, 9 * denialsPerSecond, "; 450 before it were refused without an event"},
		{4, 1, 1, 0, ""},
	} {
		ok, missed, details := 0, int64(0), ""
		for i := range c.denials {
			n, told := b.allow(c.second*1e9 + int64(i))
			if missed += n; told {
				ok++
				details += untold(n)
			}
		}
		if ok != c.ok || missed != c.missed || details != c.firstDetails {
			t.Errorf("second %d: %d of %d told, %d missed, %q; want %d, %d, %q", c.second, ok, c.denials, missed, details, c.ok, c.missed, c.firstDetails)
		}
	}
}

// TestDenialsThatAreKept are the newest: one more than may be takes the place of the oldest.
func TestDenialsThatAreKept(t *testing.T) {
	var d denied
	id := func(i int) string { return fmt.Sprintf("%04x", i) }
	for i := range 3*deniedKept + 7 {
		e := event.Connection(event.Refuse, event.Who{}, event.Where{Host: "a.example", Port: 443}, event.Verdict{Reason: "r"})
		e.Metadata.UID = id(i)
		d.keep(e)
		for old, want := range map[int]bool{i: true, i - deniedKept + 1: i >= deniedKept-1, i - deniedKept: false} {
			if _, ok := d.find(id(old)); old >= 0 && ok != want {
				t.Fatalf("after %d denials, %d is found: %v", i+1, old, ok)
			}
		}
		if len(d.ring) > deniedKept {
			t.Fatalf("%d denials are kept, the bound is %d", len(d.ring), deniedKept)
		}
	}
}
