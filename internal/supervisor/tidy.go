package supervisor

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// tidier gives memory back after many connections have come. What opening one needs
// is many times what holding it needs, and the runtime keeps it for the next ones.
type tidier struct {
	came  atomic.Int64
	armed atomic.Bool
	clean func()
}

const (
	tidyAfter = 2 * time.Second // without a new connection
	tidyWorth = 128             // new connections; fewer are not worth a collection
)

// one is called for each connection.
func (t *tidier) one() {
	if t.came.Add(1) >= tidyWorth && t.armed.CompareAndSwap(false, true) {
		t.look(0)
	}
}

// look looks again until no connection has come for a while. Nothing of it runs in
// a sandbox that opens none.
func (t *tidier) look(before int64) {
	now := t.came.Load()
	if now != before {
		time.AfterFunc(tidyAfter, func() { t.look(now) })
		return
	}
	t.came.Store(0)
	t.armed.Store(false)
	t.clean()
}

// giveBack collects garbage and gives what is free to the system. Each collection
// halves the stacks that are mostly unused, and those of connections were deep.
func giveBack() {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
}
