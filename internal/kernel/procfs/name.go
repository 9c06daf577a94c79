package procfs

// nameSize holds the longest name that is built here,
// "/proc/4294967295/task/4294967295/children", and its final NUL.
const nameSize = 64

// name is a file name on the caller's stack, ended by NUL.
type name struct {
	b [nameSize]byte
	n int
}

// text appends s and keeps the name terminated.
func (p *name) text(s string) {
	p.n += copy(p.b[p.n:nameSize-1], s)
	p.b[p.n] = 0
}

// number appends n in decimal. A negative number becomes "-", which names no
// process, so that the kernel answers with ENOENT.
func (p *name) number(n int) {
	if n < 0 {
		p.text("-")
		return
	}
	var d [20]byte
	i := len(d)
	for {
		i--
		d[i] = byte('0' + n%10)
		n /= 10
		if n == 0 {
			break
		}
	}
	p.n += copy(p.b[p.n:nameSize-1], d[i:])
	p.b[p.n] = 0
}

// of starts the name /proc/TID followed by rest, which begins with a slash.
func (p *name) of(tid int, rest string) {
	p.n = 0
	p.text("/proc/")
	p.number(tid)
	p.text(rest)
}

func (p *name) String() string { return string(p.b[:p.n]) }

// decimal reads an unsigned number from the start of b and returns what
// follows it. ok is false when there is no digit or the value overflows.
func decimal(b []byte) (v uint64, rest []byte, ok bool) {
	const limit = (1<<64 - 1) / 10
	i := 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		d := uint64(b[i] - '0')
		if v > limit || (v == limit && d > 5) {
			return 0, b, false
		}
		v = v*10 + d
	}
	return v, b[i:], i > 0
}

// whole reads an unsigned number that fills b.
func whole(b []byte) (uint64, bool) {
	v, rest, ok := decimal(b)
	return v, ok && len(rest) == 0
}
