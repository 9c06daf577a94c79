package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/internal/event"
	"sallyport/internal/policy"
)

// TestFileThatIsBeingExchanged: a policy file that is not there for a moment, as in
// the middle of a kubelet's swap, is followed all the same once it is back.
func TestFileThatIsBeingExchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	notes := make(chan string, 16)
	s := &sandbox{
		session: event.NewSession(event.Origin{}), policy: &policy.Policy{Source: path},
		o: Options{PolicyFile: path, Note: func(text string) { notes <- text }},
	}
	s.current.Store(&generation{number: 1})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.followPolicy(ctx)
	}()
	defer func() { cancel(); <-ended }()
	select {
	case <-ended:
		t.Fatalf("the file is given up: %s", <-notes)
	case <-time.After(lookEvery / 2):
	}
	if err := os.WriteFile(path, []byte("version: none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case text := <-notes:
		if !strings.Contains(text, "generation 1 stays in force") {
			t.Errorf("told %q, want what is wrong with the file", text)
		}
	case <-time.After(aWhile):
		t.Error("the file is not read when it is back")
	}
}
