package supervisor

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/egress/proxy"
	"sallyport/internal/event"
	"sallyport/internal/kernel/procfs"
	"sallyport/internal/kernel/sockdiag"
)

// directs are the open connections with relay: direct. The supervisor holds no
// descriptor of theirs: a second one would keep the agent's close from ending them.
// So it hears from the kernel that they have ended, and takes a copy of a descriptor
// from the process that has it only to shut one down.
type directs struct {
	members func() []int
	now     func() time.Time
	missed  func(*direct) // one that should be shut down cannot be found

	mu    sync.Mutex
	open  map[uint64]*direct // by SO_COOKIE
	ends  *sockdiag.Ends     // while there are any
	timer *time.Timer
	diag  sockdiag.Client
	tasks sync.WaitGroup
}

// direct is one of them; mu of its directs guards it.
type direct struct {
	*proxy.Direct
	of            *directs
	local, remote netip.AddrPort
	cookie, inode uint64
	began         time.Time
	told          bool      // there is an event of it
	revoked       time.Time // when the policy began to refuse it
	hidden        bool      // it was not found, and that is told
	gone          bool      // the kernel did not have it when it was looked for
}

const (
	maxDirects   = 4096                   // at a time; what comes then is relayed
	lookAtEnds   = 5 * time.Second        // for ends that were not heard of
	lookForThose = 200 * time.Millisecond // that are under way, or to be shut down and were not found
	findWithin   = 5 * time.Second
	lastLook     = 5 * time.Millisecond // for the kernel to tell of the last ones,
	lastLooks    = 50                   // and how often: a process that stood still has not waited
)

// admit says whether a connection may be made directly: the kernel tells of its
// end, and lets it be taken from the process tid and shut down.
func (s *directs) admit(d *proxy.Direct, to, known netip.AddrPort, tid int) (*direct, bool) {
	s.mu.Lock()
	full := len(s.open) >= maxDirects
	s.mu.Unlock()
	if full || !holdable(tid) {
		return nil, false
	}
	if _, err := s.diag.Listener(known); err != nil {
		return nil, false
	}
	return &direct{Direct: d, of: s, remote: to}, true
}

// holdable tries whether a descriptor of a process can be copied: container
// runtimes and Yama may forbid it. A number that cannot be there is not looked for
// before that was asked (__pidfd_fget in kernel/pid.c).
func holdable(tid int) bool {
	pid, err := procfs.Tgid(tid)
	if err != nil {
		return false
	}
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(p)
	_, err = unix.PidfdGetfd(p, 1<<30, 0)
	return err == unix.EBADF
}

// Begun enters the connection, unless the policy has changed since it was judged.
func (d *direct) Begun(fd int) unix.Errno {
	s := d.of
	s.mu.Lock()
	defer s.mu.Unlock()
	if !d.Current() {
		d.Refuse(d.remote.Addr())
		d.told = true
		return unix.EACCES
	}
	if err := s.enter(d, fd); err != nil {
		d.told = true
		d.Fail(d.remote.Addr(), err)
		return unix.ECONNABORTED
	}
	return 0
}

func (s *directs) enter(d *direct, fd int) error {
	var st unix.Stat_t
	local, err := boundTo(fd)
	cookie, failed := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err := errors.Join(err, failed, unix.Fstat(fd, &st)); err != nil {
		return err
	}
	if len(s.open) == 0 {
		if s.ends, err = sockdiag.WatchEnds(); err != nil {
			return err
		}
		s.open = map[uint64]*direct{}
		ends := s.ends
		s.tasks.Go(func() { s.hear(ends) })
		s.timer = time.AfterFunc(lookAtEnds, s.look)
	}
	d.local, d.cookie, d.inode, d.began = local, cookie, st.Ino, s.now()
	s.open[cookie] = d
	return nil
}

func boundTo(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, errors.Join(err, unix.EAFNOSUPPORT)
}

// Made tells what came of the connection, once.
func (d *direct) Made(errno unix.Errno) {
	s := d.of
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case d.told:
	case errno != 0:
		d.told = true
		d.Fail(d.remote.Addr(), os.NewSyscallError("connect", errno))
		s.drop(d)
	case s.open[d.cookie] == d:
		s.check(d)
		if !d.told && s.open[d.cookie] == d { // the agent does not wait for it
			s.timer.Reset(lookForThose)
		}
	}
}

// check asks how far a connection is.
func (s *directs) check(d *direct) {
	c, err := s.diag.Connection(d.local, d.remote, d.cookie)
	switch {
	case errors.Is(err, unix.ENOENT) && !d.told && !d.gone:
		d.gone = true // its end may be on the way here, and says whether it was made
	case errors.Is(err, unix.ENOENT):
		s.over(d, sockdiag.Count{})
	case err == nil && !d.told && c.State != sockdiag.UnderWay:
		d.told = true
		d.Open(d.remote.Addr())
	}
}

// hear takes connections out as they end.
func (s *directs) hear(ends *sockdiag.Ends) {
	for {
		e, err := ends.Next()
		switch {
		case err == sockdiag.ErrLost:
			s.look()
			continue
		case err != nil:
			return
		}
		s.mu.Lock()
		if d := s.open[e.Cookie]; d != nil {
			s.over(d, e.Count)
		}
		s.mu.Unlock()
	}
}

// look asks for every connection whether it is still there, and goes on to shut
// down those that the policy refuses. It comes again while there are any.
func (s *directs) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := lookAtEnds
	for _, d := range s.all() {
		s.check(d)
	}
	s.shut()
	for _, d := range s.all() {
		if d.told && d.revoked.IsZero() {
			continue
		}
		again = lookForThose
		if !d.revoked.IsZero() && !d.hidden && s.now().Sub(d.revoked) > findWithin {
			d.hidden = true
			s.missed(d)
		}
	}
	if len(s.open) > 0 {
		s.timer.Reset(again)
	}
}

func (s *directs) all() []*direct { return slices.Collect(maps.Values(s.open)) }

// over takes a connection out and tells of its end.
func (s *directs) over(d *direct, n sockdiag.Count) {
	s.drop(d)
	if !d.told {
		d.told = true
		if !n.Made && n.In+n.Out == 0 {
			d.Fail(d.remote.Addr(), errNotMade)
			return
		}
		d.Open(d.remote.Addr())
	}
	if !n.Known {
		n.In, n.Out = -1, -1
	}
	d.End(d.remote.Addr(), !d.revoked.IsZero(), n.In, n.Out, s.now().Sub(d.began))
}

// errNotMade is how a connection failed whose program did not wait for it.
var errNotMade = errors.New("it was refused, or ended before it was seen to be made")

func (s *directs) drop(d *direct) {
	if s.open[d.cookie] != d {
		return
	}
	delete(s.open, d.cookie)
	if len(s.open) == 0 {
		s.ends.Close()
		s.timer.Stop()
	}
}

// close shuts down the connections for which still is false, and returns their
// number.
func (s *directs) close(still func(proxy.Query) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.all() {
		if d.revoked.IsZero() && !still(d.Query) {
			d.revoked = s.now()
			n++
		}
	}
	if n > 0 {
		s.shut()
		if len(s.open) > 0 {
			s.timer.Reset(lookForThose)
		}
	}
	return n
}

// shut shuts down what the policy refuses, wherever it is found, and takes out what
// can carry nothing out any more.
func (s *directs) shut() {
	wanted := map[uint64]*direct{}
	for _, d := range s.open {
		if !d.revoked.IsZero() {
			wanted[d.inode] = d
		}
	}
	if len(wanted) == 0 {
		return
	}
	for _, pid := range append(s.members(), os.Getpid()) { // a twin may still be here
		shutIn(pid, wanted)
	}
	for _, d := range wanted {
		c, err := s.diag.Connection(d.local, d.remote, d.cookie)
		if errors.Is(err, unix.ENOENT) || err == nil && !c.State.Moves() {
			s.over(d, c.Count)
		}
	}
}

// shutIn shuts down those of the wanted connections, by their inodes, that a process holds.
func shutIn(pid int, wanted map[uint64]*direct) {
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it is gone, and with it what it held
	}
	defer unix.Close(p)
	names, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return
	}
	for _, n := range names {
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		inode, err := procfs.SocketInode(pid, fd)
		if d := wanted[inode]; err == nil && d != nil {
			d.shutdown(p, fd)
		}
	}
}

// shutdown takes a copy of a descriptor and ends the connection, if it is that.
func (d *direct) shutdown(process, number int) {
	fd, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return
	}
	// This close may be the last one and wait for the peer, as the agent has set it.
	defer func() { go unix.Close(fd) }()
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err == nil && cookie == d.cookie {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	}
}

// stop ends the watch when the sandbox is empty, with an event for each connection
// that the kernel has not told of yet.
func (s *directs) stop() {
	for n := 0; n < lastLooks && s.any(); n++ {
		time.Sleep(lastLook)
	}
	s.mu.Lock()
	for _, d := range s.all() {
		c, _ := s.diag.Connection(d.local, d.remote, d.cookie)
		s.over(d, c.Count)
	}
	s.mu.Unlock()
	s.tasks.Wait()
	s.diag.Close()
}

func (s *directs) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) > 0
}

// unheld ends the sandbox: a connection that the policy refuses is hidden where it
// cannot be shut down, in a process that made itself unreadable or in a message that
// nobody has taken.
func (s *sandbox) unheld(d *direct) {
	s.emit(event.Finding(event.Found{
		Kind: "direct_connection_hidden", Title: "a connection that the policy refuses could not be closed, so the sandbox was ended",
		Detail: "relay: direct to " + d.remote.String() + ": no process of the sandbox shows it",
	}))
	s.note("the connection to %s could not be closed as the policy wants it, so the sandbox was ended", d.Query.Host)
	s.agent.Stop()
}
