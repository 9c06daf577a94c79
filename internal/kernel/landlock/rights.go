package landlock

import (
	"encoding/json"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// AccessFS is a set of rights on files and directories.
type AccessFS uint64

// The rights on files, in the order of the kernel's bits.
const (
	Execute     AccessFS = unix.LANDLOCK_ACCESS_FS_EXECUTE
	WriteFile   AccessFS = unix.LANDLOCK_ACCESS_FS_WRITE_FILE
	ReadFile    AccessFS = unix.LANDLOCK_ACCESS_FS_READ_FILE
	ReadDir     AccessFS = unix.LANDLOCK_ACCESS_FS_READ_DIR
	RemoveDir   AccessFS = unix.LANDLOCK_ACCESS_FS_REMOVE_DIR
	RemoveFile  AccessFS = unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	MakeChar    AccessFS = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR
	MakeDir     AccessFS = unix.LANDLOCK_ACCESS_FS_MAKE_DIR
	MakeReg     AccessFS = unix.LANDLOCK_ACCESS_FS_MAKE_REG
	MakeSock    AccessFS = unix.LANDLOCK_ACCESS_FS_MAKE_SOCK
	MakeFifo    AccessFS = unix.LANDLOCK_ACCESS_FS_MAKE_FIFO
	MakeBlock   AccessFS = unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	MakeSym     AccessFS = unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	Refer       AccessFS = unix.LANDLOCK_ACCESS_FS_REFER
	Truncate    AccessFS = unix.LANDLOCK_ACCESS_FS_TRUNCATE
	IoctlDev    AccessFS = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	ResolveUnix AccessFS = unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
)

// Sets of rights on files, for every kernel: a caller takes the part that its
// kernel has, with [FilesOf].
const (
	// ReadFiles lets a program look and run.
	ReadFiles = Execute | ReadFile | ReadDir
	// WriteFiles is ReadFiles and everything that an ordinary program does to
	// files. It leaves out device nodes, and ResolveUnix: a socket that was
	// made inside the sandbox can be reached without it.
	WriteFiles = ReadFiles | WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg |
		MakeSock | MakeFifo | MakeSym | Refer | Truncate | IoctlDev

	// fileRights are those that mean something for a file that is no directory
	// (ACCESS_FILE in security/landlock/fs.c).
	fileRights = Execute | WriteFile | ReadFile | Truncate | IoctlDev | ResolveUnix
)

// AccessNet is a set of rights on ports.
type AccessNet uint64

// The rights on ports. They do not look at addresses.
const (
	BindTCP        AccessNet = unix.LANDLOCK_ACCESS_NET_BIND_TCP
	ConnectTCP     AccessNet = unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	BindUDP        AccessNet = unix.LANDLOCK_ACCESS_NET_BIND_UDP
	ConnectSendUDP AccessNet = unix.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP
)

// Scope is a set of things that may not reach beyond the processes of the same
// domain and those below it. There are no rules for them.
type Scope uint64

// The scopes.
const (
	ScopeAbstractUnix Scope = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	ScopeSignal       Scope = unix.LANDLOCK_SCOPE_SIGNAL
)

// Kind tells the three sets of bits apart.
type Kind uint8

// The kinds of rights.
const (
	KindFS Kind = iota
	KindNet
	KindScope
)

// Right is one row of the table: what a bit is called, since when it exists and
// what is open without it.
type Right struct {
	Kind Kind
	Name string
	Bit  uint64
	ABI  int    // first version that has it
	Why  string // what a program could do if this were not handled
}

// Rights is the table of everything that Landlock can take away. It is not to
// be changed.
var Rights = [...]Right{
	{KindFS, "execute", uint64(Execute), 1, "run any program"},
	{KindFS, "write_file", uint64(WriteFile), 1, "write to any file"},
	{KindFS, "read_file", uint64(ReadFile), 1, "read any file"},
	{KindFS, "read_dir", uint64(ReadDir), 1, "list any directory"},
	{KindFS, "remove_dir", uint64(RemoveDir), 1, "remove or rename directories"},
	{KindFS, "remove_file", uint64(RemoveFile), 1, "remove or rename files"},
	{KindFS, "make_char", uint64(MakeChar), 1, "make character devices"},
	{KindFS, "make_dir", uint64(MakeDir), 1, "make directories"},
	{KindFS, "make_reg", uint64(MakeReg), 1, "make files"},
	{KindFS, "make_sock", uint64(MakeSock), 1, "make unix sockets"},
	{KindFS, "make_fifo", uint64(MakeFifo), 1, "make named pipes"},
	{KindFS, "make_block", uint64(MakeBlock), 1, "make block devices"},
	{KindFS, "make_sym", uint64(MakeSym), 1, "make symbolic links"},
	{KindFS, "refer", uint64(Refer), 2, "nothing: without it every move or link between directories is refused"},
	{KindFS, "truncate", uint64(Truncate), 3, "empty any file that its user may write to"},
	{KindFS, "ioctl_dev", uint64(IoctlDev), 5, "control every device that it can open"},
	{KindFS, "resolve_unix", uint64(ResolveUnix), 9, "connect to the unix sockets of other programs by path"},
	{KindNet, "bind_tcp", uint64(BindTCP), 4, "listen on any TCP port"},
	{KindNet, "connect_tcp", uint64(ConnectTCP), 4, "connect to any TCP port"},
	{KindNet, "bind_udp", uint64(BindUDP), 10, "receive on any UDP port"},
	{KindNet, "connect_send_udp", uint64(ConnectSendUDP), 10, "send to any UDP port"},
	{KindScope, "abstract_unix_socket", uint64(ScopeAbstractUnix), 6, "connect to abstract unix sockets of other programs"},
	{KindScope, "signal", uint64(ScopeSignal), 6, "signal every process of the same user"},
}

// FilesOf returns every right on files that the version abi has.
func FilesOf(abi int) AccessFS { return AccessFS(rightsOf(KindFS, abi)) }

// NetworkOf returns every right on ports that the version abi has.
func NetworkOf(abi int) AccessNet { return AccessNet(rightsOf(KindNet, abi)) }

// ScopesOf returns every scope that the version abi has.
func ScopesOf(abi int) Scope { return Scope(rightsOf(KindScope, abi)) }

func rightsOf(k Kind, abi int) uint64 {
	var set uint64
	for _, r := range Rights {
		if r.Kind == k && r.ABI <= abi {
			set |= r.Bit
		}
	}
	return set
}

// Names returns the name of each right in the set.
func (a AccessFS) Names() []string { return names(KindFS, uint64(a)) }

// Names returns the name of each right in the set.
func (a AccessNet) Names() []string { return names(KindNet, uint64(a)) }

// Names returns the name of each scope in the set.
func (s Scope) Names() []string { return names(KindScope, uint64(s)) }

func (a AccessFS) String() string  { return strings.Join(a.Names(), ",") }
func (a AccessNet) String() string { return strings.Join(a.Names(), ",") }
func (s Scope) String() string     { return strings.Join(s.Names(), ",") }

// MarshalJSON writes the list of names.
func (a AccessFS) MarshalJSON() ([]byte, error) { return json.Marshal(a.Names()) }

// MarshalJSON writes the list of names.
func (a AccessNet) MarshalJSON() ([]byte, error) { return json.Marshal(a.Names()) }

// MarshalJSON writes the list of names.
func (s Scope) MarshalJSON() ([]byte, error) { return json.Marshal(s.Names()) }

// names lists a set in the order of its bits; a bit that has no row appears as
// "bit N".
func names(k Kind, set uint64) []string {
	list := []string{}
	for set != 0 {
		n := bits.TrailingZeros64(set)
		set &^= 1 << n
		name := "bit " + strconv.Itoa(n)
		for _, r := range Rights {
			if r.Kind == k && r.Bit == 1<<n {
				name = r.Name
			}
		}
		list = append(list, name)
	}
	return list
}
