package gate

import "sync/atomic"

// rate counts what happens in each second of the clock.
type rate struct {
	most   int
	now    func() (unixNano int64)
	second atomic.Int64
	used   atomic.Int64
}

// allow reports whether there is room for one more in this second.
func (r *rate) allow() bool {
	sec := r.now() / 1e9
	if old := r.second.Load(); old != sec && r.second.CompareAndSwap(old, sec) {
		r.used.Store(0)
	}
	return r.used.Add(1) <= int64(r.most)
}
