package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/internal/testkit"
	"sallyport/test/programs/resolvers"
)

// TestResolvers asks for an allowed and a denied name through each resolver. No
// connection is made, so nothing is asked of the host's own name server.
func TestResolvers(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		// A name of protocol tcp would be pinned, and so looked up, at the start.
		s.policy = s.writePolicy(t, "resolvers.yaml", strings.ReplaceAll(policyTemplate, ", protocol: tcp", ""))
		_, err := resolvers.Build(t.Context(), s.dir)
		fatal(t, err)
		for _, r := range resolvers.Table {
			for _, mode := range []string{"platform", "userns", "namespace"} {
				t.Run(mode+"/"+r.Name, func(t *testing.T) { s.resolves(t, r, mode) })
			}
		}
		if n := s.names.times(allowedHost) + s.names.times(deniedHost); n != 0 || s.wire.Frames("allowed")+s.wire.Frames("denied") != 0 {
			t.Errorf("the host's resolver was asked %d times", n)
		}
		// control: the wire would show it
		if out, err := exec.Command("getent", "hosts", allowedHost).CombinedOutput(); err != nil || s.names.times(allowedHost) == 0 || s.wire.Frames("allowed") == 0 {
			t.Errorf("control: outside of the sandbox: %s, %v", out, err)
		}
		compareTable(t, "resolvers", resolvers.Document())
	})
}

func (s *scene) resolves(t *testing.T, r resolvers.Resolver, mode string) {
	s.requireAll(t, r.Needs...)
	testkit.Require(t, testkit.Requirement{Name: r.Name, Check: func() error {
		_, err := os.Stat(filepath.Join(s.dir, r.Built))
		return err
	}})
	work := s.work(t)
	if o := s.run(t, work, r.Script(s.dir, allowedHost), "--mode", mode); !strings.Contains(o.out, "198.19.") {
		t.Errorf("no synthetic address: %v", o)
	}
	o := s.run(t, work, r.Script(s.dir, deniedHost), "--mode", mode)
	if !strings.Contains(o.out, r.Denied) || strings.Contains(o.out, "198.19.") || !strings.Contains(o.told, deniedHost) {
		t.Errorf("want %q, and a denial: %v", r.Denied, o)
	}
}
