package supervisor

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/procfs"
)

// reapOrphans collects the processes that the kernel hands to the first process
// of a container: those of `kubectl exec` whose parent has ended. What belongs
// to the sandbox is the guard's; the guard is the stage's.
func (s *sandbox) reapOrphans(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	for {
		children, _ := procfs.Children(os.Getpid())
		for _, pid := range children {
			if pid != s.agent.Guard() {
				unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}
