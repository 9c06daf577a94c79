package landlock

import "golang.org/x/sys/unix"

// Version is one row of the interface's history.
type Version struct {
	ABI    int
	Kernel string // the release of Linux that brought it
	What   string
}

// Versions is the history of the interface, oldest first, with the versions
// that this program knows. It is not to be changed.
var Versions = [...]Version{
	{1, "5.13", "files and directories"},
	{2, "5.19", "moves and links between directories can be granted (refer)"},
	{3, "6.2", "truncate"},
	{4, "6.7", "TCP ports: bind and connect"},
	{5, "6.10", "ioctl on devices"},
	{6, "6.12", "scopes: abstract unix sockets and signals"},
	{7, "6.15", "control of the audit log"},
	{8, "7.0", "restricting all threads of a process at once"},
	{9, "7.1", "unix sockets by path"},
	{10, "7.2", "UDP ports: bind, connect and send"},
}

// Newest is the last version that this program knows.
const Newest = len(Versions)

// Since returns the release of Linux that brought the version abi, or "" for
// one that is not known here.
func Since(abi int) string {
	if abi < 1 || abi > Newest {
		return ""
	}
	return Versions[abi-1].Kernel
}

// ABI returns the version that the running kernel offers, which may be newer
// than [Newest]. The error is an [*Error] of the [Kernel] side: ENOSYS when
// Landlock is not built in or a filter hides it, EOPNOTSUPP when it is built in
// but not started.
func ABI() (int, error) {
	v, e := createRuleset(nil, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0, &Error{Side: Kernel, Op: "asking for the version", Detail: absence(e), Err: e}
	}
	return v, nil
}

// absence says why there is no Landlock.
func absence(e unix.Errno) string {
	switch e {
	case unix.ENOSYS:
		return "the kernel is older than 5.13 or was built without Landlock"
	case unix.EOPNOTSUPP:
		return `Landlock is built in but not started, expected "landlock" in the kernel's lsm= list`
	case unix.EPERM, unix.EACCES:
		return "a seccomp filter refuses the call"
	}
	return ""
}

// Erratum is a repaired mistake of the kernel. A version number alone does not
// tell whether a kernel has the repair.
type Erratum struct {
	Number int
	ABI    int // the version whose feature it repairs
	What   string
}

// ErrataTable lists the repairs that this program knows. It is not to be changed.
var ErrataTable = [...]Erratum{
	{1, 4, "TCP rules also held sockets of other protocols, MPTCP among them"},
	{2, 6, "the signal scope also held signals between threads of one process"},
	{3, 1, "directories moved out of a bind mount could widen rights"},
}

// Errata returns the set of repairs that the running kernel has; see [Has]. It
// is empty on a kernel that cannot say (before 6.15 without the backport).
func Errata() uint32 {
	v, e := createRuleset(nil, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	if e != 0 {
		return 0
	}
	return uint32(v)
}

// Has reports whether erratum number is in the set that [Errata] returned.
func Has(set uint32, number int) bool {
	return number >= 1 && number <= 32 && set>>(number-1)&1 == 1
}
