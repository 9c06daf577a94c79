package supervisor

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTidier: memory is given back once after many connections, when no more come.
func TestTidier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cleaned atomic.Int64
		tidy := tidier{clean: func() { cleaned.Add(1) }}
		after := func(n int, wait time.Duration, want int64, when string) {
			t.Helper()
			for range n {
				tidy.one()
			}
			time.Sleep(wait)
			synctest.Wait()
			if got := cleaned.Load(); got != want {
				t.Errorf("%s: memory was given back %d times, want %d", when, got, want)
			}
		}
		after(tidyWorth-1, time.Hour, 0, "a few")
		for range 10 {
			after(tidyWorth, tidyAfter-1, 0, "while they come")
		}
		after(0, 2*tidyAfter, 1, "when no more come")
		after(0, time.Hour, 1, "later")
		after(tidyWorth, 2*tidyAfter, 2, "many again")
	})
}
