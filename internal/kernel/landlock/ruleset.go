package landlock

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Attr is what a ruleset takes away. What is set here and granted by no rule is
// refused; what is not set here stays as it is.
type Attr struct {
	FS     AccessFS
	Net    AccessNet
	Scoped Scope
}

// Create makes an empty ruleset and returns its descriptor, which is closed on
// execve and belongs to the caller. The errors are of type [*Error]: a right
// that the kernel does not have is [Kernel].
func Create(a Attr) (fd int, err error) {
	const op = "making a ruleset"
	if a == (Attr{}) {
		return -1, &Error{Side: Bug, Op: op, Detail: "nothing to take away"}
	}
	attr := rulesetAttr{fs: uint64(a.FS), net: uint64(a.Net), scoped: uint64(a.Scoped)}
	fd, e := createRuleset(&attr, attr.size(), 0)
	if e == 0 {
		return fd, nil
	}
	have, err := ABI()
	if err != nil {
		return -1, err
	}
	missing := Attr{a.FS &^ FilesOf(have), a.Net &^ NetworkOf(have), a.Scoped &^ ScopesOf(have)}
	if missing == (Attr{}) {
		return -1, &Error{Side: Kernel, Op: op, Err: e}
	}
	return -1, &Error{Side: Kernel, Op: op, Detail: missing.needs(have), Err: e}
}

// needs names the rights of a, which the version have lacks.
func (a Attr) needs(have int) string {
	for _, r := range Rights {
		set := [...]uint64{KindFS: uint64(a.FS), KindNet: uint64(a.Net), KindScope: uint64(a.Scoped)}[r.Kind]
		if set&r.Bit != 0 {
			return fmt.Sprintf("the kernel offers ABI %d, %s needs %d (Linux %s)", have, r.Name, r.ABI, Since(r.ABI))
		}
	}
	return fmt.Sprintf("the kernel offers ABI %d, rights %#x %#x %#x are not known", have, uint64(a.FS), uint64(a.Net), uint64(a.Scoped))
}

// AddPath grants access to the file behind pathFD, or to the directory and
// everything below it. Both descriptors are borrowed; O_PATH is enough for
// pathFD. For a file that is no directory, the rights that only directories
// have are left out.
//
// The errors are of type [*Error]. The side is [Rule] when pathFD is something
// that no rule can be about, such as a pipe, or when nothing remains to be
// granted.
func AddPath(fd, pathFD int, access AccessFS) error {
	const op = "granting a path"
	var st unix.Stat_t
	if err := unix.Fstat(pathFD, &st); err != nil {
		return &Error{Side: Bug, Op: op, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= fileRights
	}
	if access == 0 {
		return &Error{Side: Rule, Op: op, Detail: "no right to grant, expected one that this kind of file has"}
	}
	switch e := addPath(fd, pathFD, uint64(access)); e {
	case 0:
		return nil
	case unix.EBADFD:
		return &Error{Side: Rule, Op: op, Detail: "expected a file or directory of a file system that has paths", Err: e}
	default:
		return &Error{Side: Bug, Op: op, Detail: "access " + access.String(), Err: e}
	}
}

// AddPort grants access to a port, on every address. Port 0 in a bind means
// one that the kernel picks. The errors are of type [*Error].
func AddPort(fd int, port uint16, access AccessNet) error {
	op := fmt.Sprintf("granting port %d", port)
	switch e := addPort(fd, port, uint64(access)); e {
	case 0:
		return nil
	case unix.EAFNOSUPPORT:
		return &Error{Side: Kernel, Op: op, Detail: "the kernel was built without TCP", Err: e}
	default:
		return &Error{Side: Bug, Op: op, Detail: "access " + access.String(), Err: e}
	}
}

// RestrictThread puts the calling thread, and whatever it starts from now on,
// behind the ruleset for good, and sets no_new_privs on it. It is for tests and
// probes in a process of their own: the caller has locked the goroutine to its
// thread and never unlocks it. fd is borrowed.
func RestrictThread(fd int) error {
	const op = "restricting the thread"
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return &Error{Side: Kernel, Op: op, Detail: "no_new_privs", Err: err}
	}
	switch e := restrictSelf(fd, 0); e {
	case 0:
		return nil
	case unix.E2BIG:
		return &Error{Side: Kernel, Op: op, Detail: "16 rulesets are the most that can be stacked", Err: e}
	default:
		return &Error{Side: Bug, Op: op, Err: e}
	}
}
