package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// chunk is how much is copied at a time. A read that fills it is taken as a
// sign of bulk data, which the kernel then moves by itself.
const chunk = 16 << 10

// chunks holds buffers of that size between reads. A connection without traffic
// has none.
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// flow moves bytes one way between two connections. It holds neither a buffer
// nor a pipe while it waits.
type flow struct {
	src, dst *net.TCPConn
	pipes    *pipes
	moved    *atomic.Int64 // of both ways, for the sweeper
	bytes    int64         // of this way; to be read after run

	from, to syscall.RawConn
	buf      *[chunk]byte // set after a pull that filled some of it
	through  pipe         // set after a pull into a pipe
	piped    bool
	bulk     bool // try the pipe first
	n        int
	err      error
}

// A flow ends with nil at the end of src, after which dst is still to be told,
// or with one of these around the cause.
var (
	errRead  = errors.New("reading")
	errWrite = errors.New("writing")
)

// run moves bytes until src ends or either side fails.
func (f *flow) run() error {
	if err := f.open(); err != nil {
		return err
	}
	pull := f.pull // one closure for the life of the flow
	for {
		if err := f.wait(pull); err != nil {
			return err
		}
		if f.n == 0 {
			return nil
		}
		if err := f.push(); err != nil {
			return err
		}
	}
}

func (f *flow) open() (err error) {
	if f.from, err = f.src.SyscallConn(); err != nil {
		return errors.Join(errRead, err)
	}
	if f.to, err = f.dst.SyscallConn(); err != nil {
		return errors.Join(errWrite, err)
	}
	return nil
}

// wait waits until pull has bytes, or src has ended and n is 0.
func (f *flow) wait(pull func(uintptr) bool) error {
	if err := f.from.Read(pull); err != nil {
		return f.broken(err)
	}
	if f.err != nil {
		return f.broken(f.err)
	}
	if f.n == 0 {
		f.release(true)
	}
	return nil
}

func (f *flow) broken(err error) error {
	f.release(false)
	return errors.Join(errRead, err)
}

// pull takes bytes from src if there are any, and says whether the wait is over.
func (f *flow) pull(fd uintptr) bool {
	f.n, f.err = 0, nil
	for {
		if f.bulk && f.borrow() {
			var n int64
			n, f.err = unix.Splice(int(fd), nil, f.through.w, nil, pipeSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
			f.n = int(n)
		} else {
			f.buf = chunks.Get().(*[chunk]byte)
			f.n, f.err = unix.Read(int(fd), f.buf[:])
		}
		switch f.err {
		case unix.EINTR:
			f.release(true)
			continue
		case unix.EAGAIN:
			f.release(true)
			f.err, f.n = nil, 0
			return false
		}
		f.n = max(f.n, 0)
		f.bulk = f.n >= chunk
		return true
	}
}

// borrow gets a pipe; without one, bytes are copied.
func (f *flow) borrow() bool {
	if !f.piped {
		f.through, f.piped = f.pipes.get()
	}
	return f.piped
}

// push writes what pull took, all of it.
func (f *flow) push() error {
	n := f.n
	var err error
	if f.piped {
		err = f.drain()
	} else {
		_, err = f.dst.Write(f.buf[:n])
	}
	f.bytes += int64(n)
	f.moved.Add(int64(n))
	if err != nil {
		f.release(false)
		return errors.Join(errWrite, err)
	}
	if !f.bulk || f.buf != nil {
		f.release(true)
	}
	return nil
}

// drain empties the pipe into dst.
func (f *flow) drain() error {
	left := f.n
	var failed error
	err := f.to.Write(func(fd uintptr) bool {
		for left > 0 {
			n, err := unix.Splice(f.through.r, nil, int(fd), nil, left, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
			switch {
			case err == unix.EINTR:
			case err == unix.EAGAIN:
				return false
			case err != nil:
				failed = err
				return true
			case n == 0:
				failed = io.ErrUnexpectedEOF
				return true
			default:
				left -= int(n)
			}
		}
		return true
	})
	return errors.Join(err, failed)
}

// release gives buffer and pipe back; a pipe that is not empty is closed.
func (f *flow) release(empty bool) {
	if f.buf != nil {
		chunks.Put(f.buf)
		f.buf = nil
	}
	if !f.piped {
		return
	}
	if empty {
		f.pipes.put(f.through)
	} else {
		f.pipes.drop(f.through)
	}
	f.piped = false
}
