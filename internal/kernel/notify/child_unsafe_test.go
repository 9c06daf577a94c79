package notify

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The child is this test binary again. One locked thread of it installs a filter
// that notifies getppid, hands the listener over on descriptor 3 and then does what
// it is told: one request of three words, one reply of two.

const childEnv = "SALLYPORT_TEST_NOTIFY_CHILD"

// trapped is the system call that the child's filter notifies.
const trapped = unix.SYS_GETPPID

type childOp uint64

const (
	opCall   childOp = 1 + iota // call getppid(a, b, 33, 44, 55, 66): result and errno
	opRepeat                    // call it a times, expect b each time: how many did not match
	opFD                        // fstat and F_GETFD of descriptor a: inode and flags
	opExit
)

func runChild() {
	runtime.LockOSThread()
	if err := childLoop(3); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childLoop(conn int) error {
	flags, err := strconv.ParseUint(os.Getenv(childEnv), 0, 32)
	if err != nil {
		return err
	}
	fd, err := install(uintptr(flags))
	if err != nil {
		return fmt.Errorf("install filter: %w", err)
	}
	if err := unix.Sendmsg(conn, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	unix.Close(fd)
	for {
		var req [24]byte
		if n, _ := unix.Read(conn, req[:]); n != len(req) {
			return nil // the parent is gone
		}
		op := childOp(binary.NativeEndian.Uint64(req[:]))
		a := binary.NativeEndian.Uint64(req[8:])
		b := binary.NativeEndian.Uint64(req[16:])
		r1, r2 := childDo(op, a, b)
		var reply [16]byte
		binary.NativeEndian.PutUint64(reply[:], r1)
		binary.NativeEndian.PutUint64(reply[8:], r2)
		if _, err := unix.Write(conn, reply[:]); err != nil {
			return nil
		}
	}
}

func childDo(op childOp, a, b uint64) (r1, r2 uint64) {
	switch op {
	case opCall:
		r, _, errno := syscall.RawSyscall6(trapped, uintptr(a), uintptr(b), 33, 44, 55, 66)
		return uint64(r), uint64(errno)
	case opRepeat:
		for range a {
			if r, _, _ := syscall.RawSyscall(trapped, 0, 0, 0); uint64(r) != b {
				r1++
			}
		}
		return r1, 0
	case opFD:
		var st unix.Stat_t
		if err := unix.Fstat(int(a), &st); err != nil {
			return 0, 0
		}
		flags, _ := unix.FcntlInt(uintptr(a), unix.F_GETFD, 0)
		return st.Ino, uint64(flags)
	}
	os.Exit(0)
	return 0, 0
}

// install loads the filter for the calling thread alone and returns the listener.
func install(flags uintptr) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: trapped, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	fd, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|flags, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(prog)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// child is the parent's view of it.
type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	conn *net.UnixConn
}

// start runs a child and returns it with its listener's descriptor, which the
// caller owns. The child is gone when the test ends.
func start(t testing.TB, flags int) (*child, int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer theirs.Close()
	defer ours.Close()
	generic, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, conn: generic.(*net.UnixConn)}
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", childEnv, flags))
	c.cmd.ExtraFiles = []*os.File{theirs}
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	if err := c.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c, c.listener()
}

func (c *child) listener() int {
	c.t.Helper()
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.conn.ReadMsgUnix(b[:], oob)
	if err != nil {
		c.t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		c.t.Fatalf("no listener came: %d messages, %v", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return fds[0]
}

func (c *child) stop() {
	c.conn.Close()
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// tell sends a request without waiting for the reply.
func (c *child) tell(op childOp, a, b uint64) {
	c.t.Helper()
	var req [24]byte
	binary.NativeEndian.PutUint64(req[:], uint64(op))
	binary.NativeEndian.PutUint64(req[8:], a)
	binary.NativeEndian.PutUint64(req[16:], b)
	if _, err := c.conn.Write(req[:]); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) reply() (r1, r2 uint64) {
	c.t.Helper()
	var b [16]byte
	if _, err := c.conn.Read(b[:]); err != nil {
		c.t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:]), binary.NativeEndian.Uint64(b[8:])
}
