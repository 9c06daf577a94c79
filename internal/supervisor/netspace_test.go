package supervisor

import (
	"net"
	"testing"

	"sallyport/internal/testkit"
)

// TestReachIsWhatArrives: a connection of the agent's that has been made counts
// though the time for it is over, and nobody else's does.
func TestReachIsWhatArrives(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		s := &sandbox{}
		if err := s.makeNetwork(patience); err != nil {
			t.Fatal(err)
		}
		defer s.removeNetwork()
		s.space.patience = 0
		if s.proveReach() == nil {
			t.Error("control: reached without a connection")
		}
		stranger, err := net.Dial("tcp", s.proxyAddr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		if s.proveReach() == nil {
			t.Error("a connection of somebody else's counts")
		}
		c, err := s.space.dial(s.proxyAddr, aWhile)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := s.proveReach(); err != nil {
			t.Error(err)
		}
	})
}
