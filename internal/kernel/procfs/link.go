package procfs

import (
	"bytes"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotSocket says that a descriptor exists but is not a socket.
var ErrNotSocket = errors.New("procfs: descriptor is not a socket")

// linkSize holds every target that the kernel gives for a link under
// /proc/TID: it builds them in one page (do_proc_readlink).
const linkSize = 4096

// FDLink returns what the thread's descriptor fd refers to, in the words of the
// kernel: a path, "socket:[N]", "pipe:[N]", "anon_inode:NAME". A path is to be
// shown or compared, never to be opened.
func FDLink(tid, fd int) (string, error) {
	var p name
	p.fd(tid, fd)
	return link(atFDCWD, &p)
}

// SocketInode returns the inode number of the socket that is the thread's
// descriptor fd, or [ErrNotSocket]. It does not allocate.
func SocketInode(tid, fd int) (uint64, error) {
	var p name
	p.fd(tid, fd)
	var buf [64]byte
	n, err := readlinkName(atFDCWD, &p, buf[:])
	if err != nil {
		return 0, fault(&p, err)
	}
	return parseSocket(buf[:n])
}

func parseSocket(b []byte) (uint64, error) {
	b, ok := bytes.CutPrefix(b, []byte("socket:["))
	if !ok {
		return 0, ErrNotSocket
	}
	inode, rest, ok := decimal(b)
	if !ok || string(rest) != "]" {
		return 0, ErrNotSocket
	}
	return inode, nil
}

func (p *name) fd(tid, fd int) {
	p.of(tid, "/fd/")
	p.number(fd)
}

// Cwd opens the thread's working directory as an O_PATH descriptor, which the
// caller owns.
func Cwd(tid int) (fd int, err error) {
	var p name
	p.of(tid, "/cwd")
	if fd, err = openName(&p, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return -1, fault(&p, err)
	}
	return fd, nil
}

// ExeFile is the file that a thread executes.
type ExeFile struct {
	Path    string // without the kernel's mark for deleted files
	Dev     uint64
	Ino     uint64
	Size    int64 // bytes
	Mtime   int64 // nanoseconds since 1970
	Ctime   int64 // nanoseconds since 1970
	Deleted bool  // Path no longer leads to the file
	Memfd   bool  // the file never had a path: memfd_create(2)
}

// deletedMark is what the kernel appends to the path of a file that lost the
// name under which it was opened (prepend_path in fs/d_path.c).
const deletedMark = " (deleted)"

// Exe tells which file the thread executes. The link and the file are looked at
// one after the other: a thread that may call execve in between can show the
// path of one program and the inode of another. For a thread that cannot be
// relied on to stand still use [OpenExe] and [ExeOf].
func Exe(tid int) (ExeFile, error) {
	var p name
	p.of(tid, "/exe")
	return exe(atFDCWD, &p)
}

// OpenExe opens the file that the thread executes with flags, O_RDONLY or
// O_PATH. The caller owns the descriptor, which goes on to refer to this file
// whatever the thread does next.
func OpenExe(tid, flags int) (fd int, err error) {
	var p name
	p.of(tid, "/exe")
	if fd, err = openName(&p, flags); err != nil {
		return -1, fault(&p, err)
	}
	return fd, nil
}

// Dir opens the directory /proc/TID as an O_PATH descriptor, which the caller
// owns. It names this one thread for good: when the thread has ended, whatever
// is looked up in it fails, even if the number belongs to somebody else by then.
func Dir(tid int) (fd int, err error) {
	var p name
	p.of(tid, "")
	if fd, err = openName(&p, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return -1, fault(&p, err)
	}
	return fd, nil
}

// ExeAt is [Exe] for a thread whose directory [Dir] has opened. It borrows dir.
func ExeAt(dir int) (ExeFile, error) {
	var p name
	p.text("exe")
	return exe(uintptr(dir), &p)
}

// ExeOf describes the file behind a descriptor of this process, such as one
// that [OpenExe] returned. It borrows fd.
func ExeOf(fd int) (ExeFile, error) {
	var p name
	p.text("/proc/self/fd/")
	p.number(fd)
	return exe(atFDCWD, &p)
}

func exe(dir uintptr, p *name) (ExeFile, error) {
	path, err := link(dir, p)
	if err != nil {
		return ExeFile{}, err
	}
	var st unix.Stat_t
	if err := statName(dir, p, &st); err != nil {
		return ExeFile{}, fault(p, err)
	}
	f := ExeFile{
		Path: path, Dev: st.Dev, Ino: st.Ino, Size: st.Size,
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}
	if short, marked := strings.CutSuffix(path, deletedMark); marked && !leadsTo(path, &st) {
		f.Path, f.Deleted = short, true
		f.Memfd = st.Nlink == 0 && strings.HasPrefix(path, "/memfd:")
	}
	return f, nil
}

// leadsTo tells a file whose name really ends in the mark from a deleted one.
func leadsTo(path string, st *unix.Stat_t) bool {
	var now unix.Stat_t
	return unix.Lstat(path, &now) == nil && now.Dev == st.Dev && now.Ino == st.Ino
}

func link(dir uintptr, p *name) (string, error) {
	var buf [linkSize]byte
	n, err := readlinkName(dir, p, buf[:])
	if err != nil {
		return "", fault(p, err)
	}
	if n == len(buf) {
		return "", fault(p, unix.ENAMETOOLONG)
	}
	return string(buf[:n]), nil
}
