package supervisor

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/internal/event"
)

// What the agent can use up must not end the accept loop, and with it the sandbox.
// ENOSPC is the runtime's poller: epoll watches are counted for each user
// (fs.epoll.max_user_watches), and the agent is the same one.
func TestAcceptOutlastsScarcity(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ENOSPC, unix.ECONNABORTED} {
		if err := error(&net.OpError{Op: "accept", Net: "tcp4", Err: errno}); !isTemporary(err) {
			t.Errorf("%v ends the sandbox", err)
		}
	}
	if err := error(&net.OpError{Op: "accept", Net: "tcp4", Err: unix.EINVAL}); isTemporary(err) {
		t.Errorf("%v is tried for ever", err)
	}
}

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
