package gate

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/procfs"
)

// fileID names an inode for as long as it lives; the birth time tells it from a
// later one with the same number.
type fileID struct {
	major, minor uint32
	ino          uint64
	birth        int64
}

// unixPolicy says which pathname sockets may be reached: those that the policy
// grants and those that the sandbox has made.
type unixPolicy struct {
	granted  []Grant
	writable []string
	mu       sync.Mutex
	own      map[fileID]struct{}
}

// maxOwn bounds the sockets that the sandbox may bind in its life.
const maxOwn = 4096

// known names what listens at the usual places, so that a denial says what was
// meant.
var known = []struct{ fragment, name string }{
	{"docker.sock", "the Docker engine"},
	{"dockerd.sock", "the Docker engine"},
	{"containerd.sock", "containerd"},
	{"podman.sock", "the Podman engine"},
	{"buildkitd.sock", "BuildKit"},
	{"crio.sock", "CRI-O"},
	{"/systemd/", "systemd"}, // before D-Bus: its own bus is below it
	{"/dbus", "D-Bus"},
	{"/bus", "D-Bus"},
	{"nscd/socket", "the name service cache"},
	{"ssh-", "an ssh agent"},
	{"gpg-agent", "a gpg agent"},
	{"keyring", "a keyring"},
	{".X11-unix", "an X display"},
	{"wayland-", "a Wayland display"},
	{"pipewire-", "PipeWire"},
	{"pulse/", "PulseAudio"},
	{"tmux-", "tmux"},
	{"/dev/log", "the system log"},
}

func describe(p string) string {
	for _, k := range known {
		if strings.Contains(p, k.fragment) {
			return p + " (" + k.name + ")"
		}
	}
	return p
}

// unixConnect reaches the inode that the caller's path leads to, if the policy
// grants it.
func (w *worker) unixConnect(tw *twin, inode uint64, s sockaddr) verdict {
	at, v := w.reach(s)
	if v.errno != 0 {
		return v
	}
	defer unix.Close(at)
	to := inodeAddr(at)
	for end := patience(tw.fd); w.waits(); {
		if v, ended := w.unixTry(tw, inode, to); ended {
			return v
		}
		if over(end) {
			return fail(unix.EAGAIN)
		}
		time.Sleep(slice / 10) // the queue of a unix server cannot be polled
	}
	return fail(unix.EINTR)
}

// unixTry connects unless the server's queue is full and the agent wants to wait.
func (w *worker) unixTry(tw *twin, inode uint64, to unix.Sockaddr) (v verdict, ended bool) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if tw.done {
		return w.finished(inode, unix.EISCONN), true
	}
	errno, blocking := unblocked(tw.fd, func() unix.Errno { return errnoOr0(unix.Connect(tw.fd, to)) })
	switch {
	case errno == unix.EAGAIN && blocking, errno == unix.EINTR:
		return verdict{}, false
	case errno != 0:
		return fail(errno), true
	}
	w.finish(inode, tw, 0)
	return answered, true
}

// reach opens the inode that the caller's path leads to, and judges it. It is
// held open between the judgement and the connect, so nothing can be put in its
// place. The caller owns at.
func (w *worker) reach(s sockaddr) (at int, v verdict) {
	if s.abstract {
		return -1, refuse(unix.ECONNREFUSED, describe("@"+s.path), "abstract unix sockets are closed: they belong to the whole host")
	}
	at, err := w.open(s.path, unix.O_PATH)
	if err != nil {
		return -1, fail(errnoOf(err))
	}
	id, mode, err := identify(at)
	switch {
	case err != nil:
		v = fail(errnoOf(err))
	case mode&unix.S_IFMT != unix.S_IFSOCK:
		// Who may not write there learns that first (unix_find_bsd).
		if v = fail(errnoOr0(unix.Faccessat(at, "", unix.W_OK, unix.AT_EMPTY_PATH))); v.errno == 0 {
			v = fail(unix.ECONNREFUSED)
		}
	case !w.g.unix.allows(id):
		v = refuse(unix.EACCES, describe(s.path), "the policy does not list this socket under sockets.unix")
	default:
		return at, ok(0)
	}
	unix.Close(at)
	return -1, v
}

// inodeAddr is the address of an inode that is held open.
func inodeAddr(at int) unix.Sockaddr {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", at)}
}

// allows says whether the inode is granted.
func (u *unixPolicy) allows(id fileID) bool {
	u.mu.Lock()
	_, own := u.own[id]
	u.mu.Unlock()
	return own || slices.ContainsFunc(u.granted, func(g Grant) bool { return g.is(id) })
}

// unixBind makes a pathname socket below a directory that the agent may write.
// It is made by the gate, because the address would otherwise be read twice.
func (w *worker) unixBind(tw *twin, s sockaddr) verdict {
	if s.abstract {
		return refuse(unix.EACCES, "abstract unix socket", "abstract unix sockets are closed: they belong to the whole host")
	}
	dir, base := path.Split(s.path)
	if base == "" || base == "." || base == ".." {
		return w.unixBindTaken(s.path)
	}
	if dir == "" {
		dir = "."
	}
	fd, err := w.open(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fail(errnoOf(err))
	}
	defer unix.Close(fd)
	where, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || !w.g.unix.mayWrite(where) {
		return refuse(unix.EACCES, s.path, "a unix socket can be made in writable directories only")
	}
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if tw.done {
		return fail(unix.EINVAL)
	}
	born := w.g.o.Now()
	if err := unix.Bind(tw.fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", fd, base)}); err != nil {
		return fail(errnoOf(err))
	}
	tw.file = true
	w.g.unix.adopt(fd, base, born)
	return ok(0)
}

// unixBindTaken answers a bind to a path that ends in a directory, if there is one.
func (w *worker) unixBindTaken(p string) verdict {
	fd, err := w.open(p, unix.O_PATH)
	if err != nil {
		return fail(errnoOf(err))
	}
	unix.Close(fd)
	return fail(unix.EADDRINUSE)
}

// adopt remembers a socket file as the sandbox's own. Between bind and this
// look another file may have been moved into its place; what is older than the
// bind is not ours.
func (u *unixPolicy) adopt(dir int, base string, born int64) {
	fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	id, mode, err := identify(fd)
	const tick = 10e6 // file times come from the coarse clock
	if err != nil || mode&unix.S_IFMT != unix.S_IFSOCK || id.birth < born-tick {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.own) < maxOwn {
		u.own[id] = struct{}{}
	}
}

func (u *unixPolicy) mayWrite(dir string) bool { return below(dir, u.writable) }

// open resolves a path as the caller would, from its own working directory.
// Magic links are refused: /proc/self would mean the supervisor.
func (w *worker) open(p string, flags uint64) (int, error) {
	cwd, err := procfs.Cwd(w.n.TID)
	if err != nil {
		return -1, err
	}
	defer unix.Close(cwd)
	if w.g.l.Valid(w.n.ID) != nil {
		return -1, unix.EINTR
	}
	return unix.Openat2(cwd, p, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
}

// identify names the inode behind fd. A file system that keeps no birth time
// gives none of its sockets a name that could be trusted.
func identify(fd int) (fileID, uint32, error) {
	var st unix.Statx_t
	const want = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_BTIME
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, want, &st); err != nil {
		return fileID{}, 0, err
	}
	if st.Mask&unix.STATX_INO == 0 {
		return fileID{}, 0, errors.New("no inode number")
	}
	return fileID{st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec*1e9 + int64(st.Btime.Nsec)}, uint32(st.Mode), nil
}
