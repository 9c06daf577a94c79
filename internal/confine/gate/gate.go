package gate

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/notify"
	"sallyport/internal/kernel/procfs"
)

// Ledger is told of each connection before it is made, while its caller is
// stopped in connect. The returned func is called once with the local address,
// or with the zero value if there is no connection after all.
type Ledger interface {
	Open(tid int, wanted netip.AddrPort) (book func(local netip.AddrPort), err error)
}

// Route says what becomes of a connect: where the socket is really connected
// to, and whether that is booked in the ledger. A non-zero errno refuses it for
// the reason given.
type Route struct {
	To     netip.AddrPort
	Book   bool
	Errno  unix.Errno
	Reason string

	// Judge gives the route in the place of this one. It may take its time: it is
	// called while only its caller waits, and the connection that it leads to may
	// take long, too. valid says whether the thread is still that caller.
	Judge func(valid func() bool) Route

	// Follow, if not nil, is told what becomes of the connection.
	Follow Follower
}

// Follower is told of one connection that leads to where it was wanted.
type Follower interface {
	// Begun is called once, as soon as the connection of the socket fd, which is
	// borrowed, is made or under way. Another answer than 0 ends it, and is what
	// the caller gets.
	Begun(fd int) unix.Errno
	// Made is called with what came of it, 0 also where that will be seen by the
	// agent alone. It may be called again, which means nothing, or never, where the
	// socket is closed meanwhile; with an error, it may be called without Begun.
	Made(errno unix.Errno)
}

// Datagrams serves one stand-in for a datagram socket.
type Datagrams interface {
	// Send delivers a datagram that the agent addressed to a name server.
	Send(payload []byte)
}

// Denial is a call that the gate refused.
type Denial struct {
	Call   string
	TID    int
	Target string // what the call wanted to reach, for people
	Addr   netip.AddrPort
	Errno  unix.Errno
	Reason string
}

// Options configure a gate. Every func must be safe for concurrent use.
type Options struct {
	Route  func(tid int, wanted netip.AddrPort) Route // judges a TCP destination
	Ledger Ledger
	// Datagram takes ownership of fd, the policy DNS end of a stand-in for a
	// UDP socket, and calls closed when its other end is gone. nil: UDP sockets
	// are refused.
	Datagram func(fd int, closed func()) Datagrams
	Unix     []Grant  // pathname sockets of the host that may be reached
	Writable []string // directories below which the agent may bind pathname sockets
	// Loopback are the addresses on which servers inside the sandbox listen, those
	// of IPv4 and those of IPv6 sockets. Addresses of 127/8 that nothing else uses
	// keep them apart from the servers of the host and of other sandboxes, on the
	// same port too.
	Loopback  [2]netip.Addr
	Published func(port uint16) bool               // ports that listen on 127.0.0.1 or ::1 instead
	BindPort  func(port uint16) bool               // loopback ports to listen on; 0 asks for an ephemeral one
	Denied    func(Denial)                         // told of every refusal
	Members   func() []int                         // process ids in the sandbox, for sweeping twins
	Now       func() (unixNano int64)              // wall clock
	Listen    func(a netip.AddrPort, inode uint64) // told of servers inside the sandbox; may be nil
	Limits    Limits

	// Interruptible says that the filter lacks SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV. A
	// signal then takes a caller out of its call, and the kernel can lose an answer
	// that it has taken: seccomp_do_user_notification looks at the signal first. The
	// same call, made again, gets the same answer once.
	Interruptible bool

	// Thread runs a func on an operating system thread that nothing else uses and
	// that ends with it. Calls are answered there, so the sockets that the agent
	// gets belong to its network namespace. nil: a thread of this package's own.
	Thread func(func()) error
}

// Limits bound what one sandbox can ask of the gate. What goes beyond is refused
// and told. 0 takes the default.
type Limits struct {
	Pending  int // calls that wait for somebody else; 64
	Twins    int // sockets that are neither connected nor listening; 8192
	Connects int // TCP connects that are tried in one second; 20000
	Held     int // calls whose own memory does not answer; 16
}

func (l Limits) withDefaults() Limits {
	for field, def := range map[*int]int{&l.Pending: 64, &l.Twins: 8192, &l.Connects: 20000, &l.Held: 16} {
		if *field <= 0 {
			*field = def
		}
	}
	return l
}

// Gate answers the calls of one sandbox.
type Gate struct {
	o       Options
	l       *notify.Listener
	table   table
	sweeper sweeper
	unix    unixPolicy
	slots   chan struct{} // bounds the calls that wait for somebody else
	rate    rate
	mem     procfs.Memory
	answers sync.RWMutex           // held, to read, while a socket is finished and it is not known whether its answer is heard
	current atomic.Pointer[worker] // takes calls
	held    atomic.Int32           // workers that were relieved and are not back
	calls   atomic.Uint64
	panics  atomic.Uint64
	workers sync.WaitGroup

	closing chan struct{} // closed by Close
	once    sync.Once
}

// New makes a gate. It takes ownership of l.
func New(l *notify.Listener, o Options) *Gate {
	o.Limits = o.Limits.withDefaults()
	g := &Gate{o: o, l: l, slots: make(chan struct{}, o.Limits.Pending), rate: rate{most: o.Limits.Connects, now: o.Now}, closing: make(chan struct{})}
	g.table.init(o.Limits.Twins)
	g.sweeper = sweeper{table: &g.table, members: o.Members, quit: make(chan struct{})}
	g.unix = unixPolicy{granted: o.Unix, writable: o.Writable, own: map[fileID]struct{}{}}
	return g
}

// Run answers calls until the sandbox is empty or Close is called; kernels before
// Linux 6.11 wait for Close. The error is nil at the end of the sandbox.
func (g *Gate) Run() error {
	over := make(chan struct{})
	defer close(over)
	go waiting.watch(over)
	ended := make(chan error, 2+g.o.Limits.Held) // nobody waits to say it
	if err := g.employ(ended); err != nil {
		return err
	}
	go g.relieve(ended, over)
	err := g.end(ended)
	close(g.sweeper.quit)
	g.await()
	g.table.close()
	return err
}

// Close ends Run. Calls that are waiting, and all later ones, get ENOSYS from
// the kernel once the listener is closed.
func (g *Gate) Close() error {
	g.once.Do(func() { close(g.closing) })
	return g.l.Close()
}

// Calls is the number of calls answered, Panics the number of handlers that
// ended in a panic; their calls were refused.
func (g *Gate) Calls() (calls, panics uint64) { return g.calls.Load(), g.panics.Load() }

// work takes calls. There is one worker at a time: it does not wait, so it is
// enough, and a second one would be woken by every call, for nothing. Its thread is
// its own: a blocking ioctl on a locked thread answers 30 µs sooner than one through
// the netpoller.
func (w *worker) work() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		err := w.g.l.Recv(&w.n)
		switch {
		case errors.Is(err, notify.ErrGone):
			return nil
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("gate: %w", err)
		}
		w.g.calls.Add(1)
		w.at.Store(w.n.ID)
		w.answer()
		if w.back() {
			return nil
		}
	}
}

// worker holds what one call needs, so that the hot path does not allocate.
type worker struct {
	g       *Gate
	n       notify.Notification
	buf     []byte
	patient bool // has one call to itself, and may wait

	at       atomic.Uint64 // the call that it answers, by its id; 0 between two
	relieved atomic.Bool   // another one has taken its place
}

// verdict is the answer to a call. A handler that has answered by itself, or
// will, says so with done.
type verdict struct {
	val    int64
	errno  unix.Errno
	reason string // why it was refused; empty for the kernel's own errors
	target string
	addr   netip.AddrPort
	done   bool
	pass   bool // the call goes on by itself; see pass
}

func ok(val int64) verdict          { return verdict{val: val} }
func fail(errno unix.Errno) verdict { return verdict{errno: errno} }
func refuse(errno unix.Errno, target, reason string) verdict {
	return verdict{errno: errno, target: target, reason: reason}
}

var answered = verdict{done: true}

// handler is one row of the gate's table.
type handler struct {
	name string
	do   func(*worker) verdict
}

var handlers = map[int]handler{
	unix.SYS_SOCKET:  {"socket", (*worker).socket},
	unix.SYS_CONNECT: {"connect", (*worker).connect},
	unix.SYS_BIND:    {"bind", (*worker).bind},
	unix.SYS_LISTEN:  {"listen", (*worker).listen},
	unix.SYS_SENDTO:  {"sendto", (*worker).sendto},

	unix.SYS_RECVFROM: {"recvfrom", (*worker).recvfrom},
	unix.SYS_RECVMSG:  {"recvmsg", (*worker).recvmsg},

	unix.SYS_GETSOCKNAME: {"getsockname", (*worker).getsockname},
	unix.SYS_GETPEERNAME: {"getpeername", (*worker).getpeername},
}

// answer judges one call. Whatever goes wrong ends in a refusal of that call.
func (w *worker) answer() {
	h, known := handlers[w.n.Nr]
	if !known {
		h = handler{fmt.Sprintf("system call %d", w.n.Nr), func(*worker) verdict {
			return refuse(unix.ENOSYS, "", "the gate does not know this call")
		}}
	}
	w.reply(h.name, w.guarded(h))
}

func (w *worker) guarded(h handler) (v verdict) {
	defer func() {
		if r := recover(); r != nil {
			w.g.panics.Add(1)
			v = refuse(unix.EACCES, "", fmt.Sprintf("bug: %v", r))
		}
	}()
	return h.do(w)
}

// reply tells of a refusal and sends the verdict. A caller that died or was
// interrupted does not take it.
func (w *worker) reply(call string, v verdict) {
	if v.done {
		return
	}
	if v.pass {
		_ = w.g.l.Continue(w.n.ID)
		return
	}
	if v.reason != "" && w.g.o.Denied != nil {
		w.tell(Denial{Call: call, TID: w.n.TID, Target: v.target, Addr: v.addr, Errno: v.errno, Reason: v.reason})
	}
	_ = w.g.l.Respond(w.n.ID, v.val, v.errno)
}

// tell survives a panic of who is told: the call is refused all the same.
func (w *worker) tell(d Denial) {
	defer func() {
		if recover() != nil {
			w.g.panics.Add(1)
		}
	}()
	w.g.o.Denied(d)
}

// memory copies the caller's memory at addr into b.
func (w *worker) memory(addr uint64, b []byte) unix.Errno {
	if !w.patient && w.g.crowded() {
		return unix.EAGAIN
	}
	if _, err := w.g.mem.Read(w.n.TID, addr, b); err != nil {
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return unix.EACCES
		}
		return unix.EFAULT
	}
	return 0
}

// address copies and parses the socket address at the given argument, and finds
// the socket at argument 0. When it returns, both were read from the process
// that made this call: the notification was still alive after the last read.
func (w *worker) address(addrArg, lenArg int) (*twin, uint64, sockaddr, verdict) {
	n := int32(w.n.Args[lenArg])
	if n < 0 || n > maxSockaddr {
		return w.senseless(unix.EINVAL)
	}
	b := w.buf[:n]
	if errno := w.memory(w.n.Args[addrArg], b); errno != 0 && n > 0 {
		return w.senseless(errno)
	}
	t, inode, v := w.socketAt(int(int32(w.n.Args[0])))
	if v.errno != 0 {
		return nil, 0, sockaddr{}, v
	}
	s, errno := parseSockaddr(b)
	s.size, s.errno = len(b), errno
	return t, inode, s, ok(0)
}

// senseless answers a call whose address cannot be read. What is wrong with its
// descriptor counts first, as in the kernel: for connect whether there is one, for
// bind and sendto also whether it is a socket.
func (w *worker) senseless(errno unix.Errno) (*twin, uint64, sockaddr, verdict) {
	_, _, v := w.socketAt(int(int32(w.n.Args[0])))
	if v.errno == unix.EBADF || v.errno == unix.ENOTSOCK && w.n.Nr != unix.SYS_CONNECT {
		return nil, 0, sockaddr{}, v
	}
	return nil, 0, sockaddr{}, w.unreadable(errno)
}

func (w *worker) unreadable(errno unix.Errno) verdict {
	switch errno {
	case unix.EACCES:
		return refuse(errno, "", "the caller's memory cannot be read (a program that made itself undumpable gets no connections)")
	case unix.EAGAIN:
		return refuse(errno, "", "too many calls of this sandbox wait for memory that does not answer")
	}
	return fail(errno)
}

// socketAt finds the twin of the caller's descriptor. t is nil for a socket
// that has been connected and for one that the gate did not make; the latter
// is refused by each handler.
func (w *worker) socketAt(fd int) (t *twin, inode uint64, v verdict) {
	inode, err := procfs.SocketInode(w.n.TID, fd)
	if err != nil {
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil, 0, fail(unix.EBADF)
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return nil, 0, w.unreadable(unix.EACCES)
		}
		return nil, 0, fail(unix.ENOTSOCK)
	}
	if w.g.l.Valid(w.n.ID) != nil {
		return nil, 0, fail(unix.EINTR) // the caller is gone: nobody reads this
	}
	return w.g.table.find(inode), inode, ok(0)
}
