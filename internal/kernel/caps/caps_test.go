package caps

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sallyport/internal/testkit"
)

func TestRead(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	got, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&header, &d[0]); err != nil {
		t.Fatal(err)
	}
	if want := uint64(d[1].Effective)<<32 | uint64(d[0].Effective); got.Effective != want {
		t.Errorf("Read: effective %#x, capget says %#x", got.Effective, want)
	}
	if want := uint64(d[1].Permitted)<<32 | uint64(d[0].Permitted); got.Permitted != want {
		t.Errorf("Read: permitted %#x, capget says %#x", got.Permitted, want)
	}
}

func TestNames(t *testing.T) {
	got := Names(1<<unix.CAP_CHOWN | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_CHECKPOINT_RESTORE | 1<<50)
	if d := cmp.Diff([]string{"chown", "sys_admin", "checkpoint_restore", "cap_50"}, got); d != "" {
		t.Errorf("Names (-want +got):\n%s", d)
	}
	if len(capNames) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names, the last capability is %d", len(capNames), unix.CAP_LAST_CAP)
	}
}

const status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapInh:\t0000000000000001\n" +
	"CapPrm:\t0000000000000002\nCapEff:\t0000000000000003\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000005\nNoNewPrivs:\t1\n"

func TestParseThread(t *testing.T) {
	got, err := parseThread([]byte(status))
	if err != nil {
		t.Fatal(err)
	}
	want := thread{
		uids: [4]int{1, 2, 3, 4}, gids: [4]int{5, 6, 7, 8}, groups: []int{9, 10},
		sets: Sets{Inheritable: 1, Permitted: 2, Effective: 3, Bounding: 1<<41 - 1, Ambient: 5}, noNewPrivs: true,
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(thread{})); d != "" {
		t.Errorf("parseThread (-want +got):\n%s", d)
	}
	for name, r := range map[string][2]string{
		"no_ambient": {"CapAmb:\t0000000000000005\n", ""},
		"twice":      {"NoNewPrivs:\t1\n", "NoNewPrivs:\t1\nNoNewPrivs:\t\n"},
		"hex":        {"CapEff:\t0000000000000003", "CapEff:\tx"},
		"three":      {"\t1\t2\t3\t4", "\t1\t2\t3"},
		"five":       {"\t1\t2\t3\t4", "\t1\t2\t3\t4\t5"},
		"minus":      {"9 10", "-9 10"},
		"nnp":        {"NoNewPrivs:\t1", "NoNewPrivs:\t2"},
	} {
		in := strings.Replace(status, r[0], r[1], 1)
		if _, err := parseThread([]byte(in)); name != "twice" && err == nil {
			t.Errorf("%s: parseThread accepts %q", name, in)
		}
	}
}

func FuzzParseThread(f *testing.F) {
	f.Add([]byte(status))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseThread(b); err != nil && s.groups != nil {
			t.Errorf("parseThread(%q) = %+v with an error", b, s)
		}
	})
}

// TestIs shows that each thing that could be left over is seen.
func TestIs(t *testing.T) {
	clean := func() thread {
		return thread{uids: [4]int{7, 7, 7, 7}, gids: [4]int{8, 8, 8, 8}, groups: []int{3, 2}, noNewPrivs: true}
	}
	if err := clean().is(7, 8, []int{2, 3}); err != nil {
		t.Errorf("a clean thread: %v", err)
	}
	for name, spoil := range map[string]func(*thread){
		"saved_uid":   func(t *thread) { t.uids[2] = 0 },
		"fs_gid":      func(t *thread) { t.gids[3] = 0 },
		"group":       func(t *thread) { t.groups = append(t.groups, 0) },
		"inheritable": func(t *thread) { t.sets.Inheritable = 1 },
		"permitted":   func(t *thread) { t.sets.Permitted = 1 },
		"effective":   func(t *thread) { t.sets.Effective = 1 },
		"bounding":    func(t *thread) { t.sets.Bounding = 1 },
		"ambient":     func(t *thread) { t.sets.Ambient = 1 },
		"privs":       func(t *thread) { t.noNewPrivs = false },
	} {
		bad := clean()
		spoil(&bad)
		if bad.is(7, 8, []int{2, 3}) == nil {
			t.Errorf("%s is not seen", name)
		}
	}
}

func requireNoCgo(t *testing.T) {
	t.Helper()
	if _, _, e := syscall.AllThreadsSyscall(syscall.SYS_GETPID, 0, 0, 0); e == syscall.ENOTSUP {
		t.Skip("built with C threads (CGO_ENABLED=1), which cannot be reached")
	}
}

func TestDropTo(t *testing.T) {
	requireNoCgo(t)
	testkit.Require(t, testkit.Root())
	testkit.RunInSubprocess(t, func(t *testing.T) {
		release := busyThreads(t, 4)
		if err := DropTo(1234, 2345, []int{77, 66}); err != nil {
			t.Fatal(err)
		}
		release()
		if os.Getuid() != 1234 || os.Getegid() != 2345 {
			t.Errorf("ids %d and %d", os.Getuid(), os.Getegid())
		}
		if err := prove(1234, 2345, []int{66, 77}); err != nil {
			t.Error(err)
		}
		busyThreads(t, 8)() // threads that are made only now
		if err := prove(1234, 2345, []int{66, 77}); err != nil {
			t.Errorf("with new threads: %v", err)
		}
		if err := DropTo(1235, 2345, nil); err == nil {
			t.Error("a second change of identity succeeded")
		}
		checkChild(t)
	})
}

// checkChild runs a program and looks at what it is.
func checkChild(t *testing.T) {
	t.Helper()
	out, err := exec.Command("/bin/cat", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	child, err := parseThread(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.is(1234, 2345, []int{66, 77}); err != nil {
		t.Errorf("a child: %v", err)
	}
}

// TestExecAs looks at what a program is that a thread of root has become.
func TestExecAs(t *testing.T) {
	const child = "CAPS_TEST_EXEC_AS"
	if os.Getenv(child) != "" {
		busyThreads(t, 4)
		t.Fatal(ExecAs(Identity{UID: 1234, GID: 2345, Groups: []int{77, 66}}, "/bin/cat", []string{"cat", "/proc/self/status"}, nil))
	}
	testkit.Require(t, testkit.Root())
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestExecAs$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := parseThread(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := got.is(1234, 2345, []int{66, 77}); err != nil {
		t.Error(err)
	}
	if err := ExecAs(Identity{GID: 1}, "/bin/true", nil, nil); err == nil {
		t.Error("root can become root")
	}
}

// busyThreads makes n threads exist and keeps them until the returned func.
func busyThreads(t *testing.T, n int) (release func()) {
	t.Helper()
	hold := make(chan struct{})
	var up, down sync.WaitGroup
	for range n {
		up.Add(1)
		down.Go(func() {
			runtime.LockOSThread()
			up.Done()
			<-hold
			runtime.UnlockOSThread()
		})
	}
	up.Wait()
	return func() {
		close(hold)
		down.Wait()
	}
}

func TestDropTo_refused(t *testing.T) {
	for _, id := range [][2]int{{0, 1}, {1, 0}, {-1, 5}, {5, -1}} {
		if err := DropTo(id[0], id[1], nil); err == nil {
			t.Fatalf("DropTo(%d, %d) = nil", id[0], id[1])
		}
	}
	requireNoCgo(t)
	testkit.Nobody(t, func(t *testing.T) {
		if err := DropTo(1234, 1234, nil); !errors.Is(err, unix.EPERM) {
			t.Errorf("DropTo without privilege = %v, want EPERM", err)
		}
	})
}

// A user who was lent capabilities, ambient ones included, gives up all of them
// and stays who it is.
func TestShed(t *testing.T) {
	requireNoCgo(t)
	if os.Getenv("SALLYPORT_TESTKIT_CHILD") == "" { // the child has lost root already
		testkit.Require(t, testkit.Root())
	}
	lent := uint64(1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN)
	for name, more := range map[string]uint64{"two": 0, "with setpcap": 1 << unix.CAP_SETPCAP} {
		t.Run(name, func(t *testing.T) {
			testkit.RunInSubprocess(t, func(t *testing.T) {
				before, err := Read()
				if err != nil || before.Effective != lent|more || before.Ambient != lent|more {
					t.Fatalf("control: sets %+v, %v", before, err)
				}
				release := busyThreads(t, 3)
				if err := Shed(); err != nil {
					t.Fatal(err)
				}
				release()
				after, err := Read()
				if err != nil || after.Effective|after.Permitted|after.Inheritable|after.Ambient != 0 {
					t.Errorf("sets %+v, %v", after, err)
				}
				if more != 0 && after.Bounding != 0 {
					t.Errorf("bounding set %#x with CAP_SETPCAP", after.Bounding)
				}
				if os.Getuid() != testkit.NobodyID {
					t.Errorf("uid %d", os.Getuid())
				}
				if err := unix.Unshare(unix.CLONE_NEWNET); !errors.Is(err, unix.EPERM) {
					t.Errorf("a namespace after all: %v", err)
				}
			}, func(cmd *exec.Cmd) error {
				dir, err := testkit.PublicDir(t)
				if err != nil {
					return err
				}
				if cmd.Path, err = testkit.CopyExecutable(dir, cmd.Path); err != nil {
					return err
				}
				cmd.SysProcAttr.Credential = &syscall.Credential{Uid: testkit.NobodyID, Gid: testkit.NobodyID}
				cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN}
				if more != 0 {
					cmd.SysProcAttr.AmbientCaps = append(cmd.SysProcAttr.AmbientCaps, unix.CAP_SETPCAP)
				}
				return nil
			})
		})
	}
}

// TestProve shows that a process which still is root is found out.
func TestProve(t *testing.T) {
	testkit.Require(t, testkit.Root())
	testkit.RunInSubprocess(t, func(t *testing.T) {
		if err := prove(1234, 1234, nil); !errors.Is(err, ErrKept) {
			t.Errorf("prove as root = %v, want ErrKept", err)
		}
	})
}

func TestHarden(t *testing.T) {
	testkit.RunInSubprocess(t, func(t *testing.T) {
		if err := Harden(); err != nil {
			t.Fatal(err)
		}
		if d, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || d != 0 {
			t.Errorf("dumpable %d, %v", d, err)
		}
		var r unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &r); err != nil || r.Cur > 1 || r.Max > 1 {
			t.Errorf("core limit %+v, %v", r, err)
		}
	})
}
