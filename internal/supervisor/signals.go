package supervisor

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"sallyport/internal/confine/stage"
)

// forwarded are the signals that a caller sends to a program by way of us.
var forwarded = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH,
}

// forwardSignals passes signals on to the agent until the returned func is
// called, once or more often. It starts before the agent does, so that none is lost; what arrives
// too early is kept.
func forwardSignals() (to func(*stage.Process), stop func()) {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, forwarded...)
	quit, done := make(chan struct{}), make(chan struct{})
	target := make(chan *stage.Process, 1)
	go func() {
		defer close(done)
		var p *stage.Process
		for {
			in := ch
			if p == nil {
				in = nil
			}
			select {
			case p = <-target:
			case s := <-in:
				p.Signal(s.(syscall.Signal))
			case <-quit:
				return
			}
		}
	}()
	return func(p *stage.Process) { target <- p }, sync.OnceFunc(func() {
		signal.Stop(ch)
		close(quit)
		<-done
	})
}
