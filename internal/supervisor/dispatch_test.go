package supervisor

import (
	"strings"
	"testing"

	"sallyport/internal/event"
)

// A panic ends the piece of work that it came from, and is told.
func TestSurvives(t *testing.T) {
	var told []event.Event
	s := &sandbox{session: event.NewSession(event.Origin{SessionID: "test"}), o: Options{Event: func(e event.Event) { told = append(told, e) }}}
	cleaned := false
	s.survives("a connection", func() { var m map[string]int; m["x"]++ }, func() { cleaned = true })
	if !cleaned {
		t.Error("nothing was cleaned up")
	}
	if len(told) != 1 || told[0].FindingInfo == nil || !strings.Contains(told[0].FindingInfo.Desc, "nil map") {
		t.Errorf("events %+v, want one finding that names the panic", told)
	}
	s.survives("a connection", func() {}, func() { t.Error("cleaned up behind nothing") })
	if len(told) != 1 {
		t.Errorf("%d events, want 1", len(told))
	}
}
