package procfs

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// helper is the environment variable that turns the test binary into the
// process that is looked at.
const helper = "PROCFS_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helper) {
	case "wait":
		fmt.Println("ready")
		var b [1]byte
		os.Stdin.Read(b[:])
		os.Exit(0)
	case "parent":
		c := exec.Command("/proc/self/exe")
		c.Env = []string{helper + "=wait"}
		c.Stdin, c.Stdout = os.Stdin, os.Stdout
		if c.Start() != nil || c.Wait() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	before := openFDs()
	code := m.Run()
	if leaked := openFDs() - before; code == 0 && leaked != 0 && flag.Lookup("test.fuzz").Value.String() == "" {
		fmt.Fprintf(os.Stderr, "%d descriptors left open\n", leaked)
		code = 1
	}
	os.Exit(code)
}

// openFDs counts open files but those of the runtime's own poller.
func openFDs() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	n := 0
	for _, e := range list {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); !strings.HasPrefix(to, "anon_inode:[event") {
			n++
		}
	}
	return n
}

// start runs path as a helper and returns when it stands still.
func start(t *testing.T, path, mode string) int {
	t.Helper()
	c := exec.Command(path)
	c.Env = []string{helper + "=" + mode}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		c.Wait()
	})
	var b [6]byte
	if _, err := out.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return c.Process.Pid
}

func copyOfTest(t *testing.T, to string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// unusedPID is above every pid_max that the kernel takes.
const unusedPID = 1<<22 + 1

func TestStat(t *testing.T) {
	got, err := Stat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	if got.TID != os.Getpid() || got.PPID != os.Getppid() || got.Start == 0 ||
		got.Comm != strings.TrimSuffix(string(comm), "\n") {
		t.Errorf("Stat(self) = %+v", got)
	}
	if _, err := Stat(unusedPID); !Gone(err) {
		t.Errorf("Stat(%d) error = %v, want gone", unusedPID, err)
	}
	if _, err := Stat(-1); !Gone(err) {
		t.Errorf("Stat(-1) error = %v, want gone", err)
	}
}

func TestStat_thread(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := unix.Gettid()
	if got, err := Stat(tid); err != nil || got.TID != tid {
		t.Errorf("Stat(%d) = %+v, %v", tid, got, err)
	}
	if got, err := Tgid(tid); err != nil || got != os.Getpid() {
		t.Errorf("Tgid(%d) = %d, %v, want %d", tid, got, err, os.Getpid())
	}
}

func TestParseStat(t *testing.T) {
	tail := " S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 99 0\n"
	tests := []struct {
		name, in string
		want     Thread
		ok       bool
	}{
		{"plain", "42 (cat)" + tail, Thread{42, 7, 'S', 123456, "cat"}, true},
		{"parentheses", "42 (a) S 9 (b))" + tail, Thread{42, 7, 'S', 123456, "a) S 9 (b)"}, true},
		{"newline", "42 (a\nb)" + tail, Thread{42, 7, 'S', 123456, "a\nb"}, true},
		{"empty_comm", "42 ()" + tail, Thread{42, 7, 'S', 123456, ""}, true},
		{"empty", "", Thread{}, false},
		{"no_comm", "42 S 7", Thread{}, false},
		{"cut", "42 (cat) S 7 1 1 0", Thread{}, false},
		{"cut_after_state", "42 (cat) S", Thread{}, false},
		{"letters", "42 (cat) S x 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1", Thread{}, false},
		{"overflow", "42 (cat) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99999999999999999999", Thread{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat([]byte(tt.in))
			if (err == nil) != tt.ok || got != tt.want {
				t.Errorf("parseStat(%q) = %+v, %v, want %+v, ok %v", tt.in, got, err, tt.want, tt.ok)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	got, err := Status(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if got.Tgid != os.Getpid() || got.Pid != os.Getpid() || got.PPid != os.Getppid() || got.Threads < 1 {
		t.Errorf("Status(self) = %+v", got)
	}
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	if got.UID != (IDs{uid, uid, uid, uid}) || got.GID != (IDs{gid, gid, gid, gid}) {
		t.Errorf("Status(self) ids = %+v %+v, want %d %d", got.UID, got.GID, os.Getuid(), os.Getgid())
	}
	if got.Seccomp < 0 {
		t.Error("Status(self): no Seccomp line")
	}
	old := unix.Umask(0o137)
	defer unix.Umask(old)
	if s, err := Status(os.Getpid()); err != nil || s.Umask != 0o137 {
		t.Errorf("Status(self) has umask %o, %v, want 137", s.Umask, err)
	}
}

const statusText = "Name:\tx\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t5\nNgid:\t0\nPid:\t6\nPPid:\t1\n" +
	"Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t4294967295\nGroups:\t10 20 \nThreads:\t3\n" +
	"CapInh:\t0000000000000001\nCapPrm:\t0000000000000002\nCapEff:\t0000000000000004\n" +
	"CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000008\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n"

func TestParseStatus(t *testing.T) {
	want := ThreadStatus{
		Tgid: 5, Pid: 6, PPid: 1, UID: IDs{1, 2, 3, 4}, GID: IDs{5, 6, 7, 1<<32 - 1},
		Groups: []uint32{10, 20}, Umask: 0o22, Threads: 3,
		CapInh: 1, CapPrm: 2, CapEff: 4, CapBnd: 1<<41 - 1, CapAmb: 8,
		NoNewPrivs: true, Seccomp: 2, SeccompFilters: 3,
	}
	got, err := parseStatus([]byte(statusText))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("parseStatus (-want +got):\n%s", d)
	}
	broken := map[string][2]string{
		"no_capbnd":    {"CapBnd:\t000001ffffffffff\n", ""},
		"no_uid":       {"Uid:\t1\t2\t3\t4\n", ""},
		"three_uids":   {"Uid:\t1\t2\t3\t4\n", "Uid:\t1\t2\t3\n"},
		"five_gids":    {"Gid:\t5", "Gid:\t9\t5"},
		"twice":        {"Tgid:\t5\n", "Tgid:\t5\nTgid:\t6\n"},
		"hex":          {"CapEff:\t0000000000000004", "CapEff:\t000000000000000g"},
		"long_hex":     {"CapEff:\t0000000000000004", "CapEff:\t00000000000000004"},
		"big_group":    {"10 20", "10 4294967296"},
		"glued":        {"10 20", "10,20"},
		"nnp":          {"NoNewPrivs:\t1", "NoNewPrivs:\tyes"},
		"negative_pid": {"\nPid:\t6", "\nPid:\t-6"},
		"octal":        {"0022", "0029"},
	}
	for name, r := range broken {
		t.Run(name, func(t *testing.T) {
			in := strings.Replace(statusText, r[0], r[1], 1)
			if in == statusText {
				t.Fatal("nothing was broken")
			}
			if got, err := parseStatus([]byte(in)); !errors.Is(err, ErrMalformed) {
				t.Errorf("parseStatus = %+v, %v, want ErrMalformed", got, err)
			}
		})
	}
}

func TestExe(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "tool")
	marked := filepath.Join(dir, "tool (deleted)")
	doomed := filepath.Join(dir, "doomed")
	linked := filepath.Join(dir, "linked")
	for _, f := range []string{plain, marked, doomed, linked} {
		copyOfTest(t, f)
	}
	if err := os.Link(linked, filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, file string
		remove     bool
		deleted    bool
	}{
		{"plain", plain, false, false},
		{"name_ends_in_mark", marked, false, false},
		{"deleted", doomed, true, true},
		{"deleted_but_linked", linked, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var st unix.Stat_t
			if err := unix.Stat(tt.file, &st); err != nil {
				t.Fatal(err)
			}
			pid := start(t, tt.file, "wait")
			if tt.remove {
				if err := os.Remove(tt.file); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Exe(pid)
			if err != nil {
				t.Fatal(err)
			}
			want := ExeFile{Path: tt.file, Dev: st.Dev, Ino: st.Ino, Size: st.Size,
				Mtime: st.Mtim.Nano(), Ctime: got.Ctime, Deleted: tt.deleted}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("Exe (-want +got):\n%s", d)
			}
			dir, err := Dir(pid)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(dir)
			if at, err := ExeAt(dir); err != nil || at != got {
				t.Errorf("ExeAt = %+v, %v, want %+v", at, err, got)
			}
			fd, err := OpenExe(pid, unix.O_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if again, err := ExeOf(fd); err != nil || again != got {
				t.Errorf("ExeOf = %+v, %v, want %+v", again, err, got)
			}
		})
	}
}

// TestDir shows that an open directory does not outlive its process.
func TestDir(t *testing.T) {
	c := exec.Command("/proc/self/exe")
	c.Env = []string{helper + "=wait"}
	if err := c.Start(); err != nil { // stdin is empty, so it ends by itself
		t.Fatal(err)
	}
	dir, err := Dir(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	c.Wait()
	if _, err := ExeAt(dir); !Gone(err) {
		t.Errorf("ExeAt after the end: %v, want gone", err)
	}
	if _, err := Dir(unusedPID); !Gone(err) {
		t.Errorf("Dir(%d) error = %v, want gone", unusedPID, err)
	}
}

func TestExe_memfd(t *testing.T) {
	fd, err := unix.MemfdCreate("hidden", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "hidden")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		_, err = f.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	r, err := os.Open(path) // a file open for writing cannot be executed
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	defer r.Close()
	pid := start(t, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.Fd()), "wait")
	got, err := Exe(pid)
	if err != nil || !got.Memfd || !got.Deleted || got.Path != "/memfd:hidden" {
		t.Errorf("Exe = %+v, %v, want a memfd", got, err)
	}
}

func TestLinks(t *testing.T) {
	s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s[0])
	defer unix.Close(s[1])
	var st unix.Stat_t
	if err := unix.Fstat(s[0], &st); err != nil {
		t.Fatal(err)
	}
	pid := os.Getpid()
	if got, err := SocketInode(pid, s[0]); err != nil || got != st.Ino {
		t.Errorf("SocketInode = %d, %v, want %d", got, err, st.Ino)
	}
	if got, err := FDLink(pid, s[0]); err != nil || got != fmt.Sprintf("socket:[%d]", st.Ino) {
		t.Errorf("FDLink = %q, %v", got, err)
	}
	if _, err := SocketInode(pid, 1<<20); !Gone(err) {
		t.Errorf("SocketInode of a closed descriptor: %v, want gone", err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := SocketInode(pid, int(null.Fd())); !errors.Is(err, ErrNotSocket) {
		t.Errorf("SocketInode(/dev/null) error = %v, want ErrNotSocket", err)
	}
	fd, err := Cwd(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	want, _ := os.Getwd()
	if got, err := FDLink(pid, fd); err != nil || got != want {
		t.Errorf("Cwd leads to %q, %v, want %q", got, err, want)
	}
}

func TestTree(t *testing.T) {
	pid := start(t, "/proc/self/exe", "parent")
	kids, err := Children(pid)
	if err != nil || len(kids) != 1 {
		t.Fatalf("Children(%d) = %v, %v, want one", pid, kids, err)
	}
	if scan, err := childrenByScan(pid); err != nil || !slices.Equal(scan, kids) {
		t.Errorf("childrenByScan = %v, %v, want %v", scan, err, kids)
	}
	mine, err := Descendants(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p, k := slices.Index(mine, pid), slices.Index(mine, kids[0])
	if p < 0 || k < p {
		t.Errorf("Descendants = %v, want %d before %d", mine, pid, kids[0])
	}
	if got, err := Descendants(kids[0]); err != nil || len(got) != 0 {
		t.Errorf("Descendants of a leaf = %v, %v", got, err)
	}
	if _, err := Children(unusedPID); !Gone(err) {
		t.Errorf("Children(%d) error = %v, want gone", unusedPID, err)
	}
	tasks, err := Tasks(os.Getpid())
	if err != nil || !slices.Contains(tasks, os.Getpid()) {
		t.Errorf("Tasks(self) = %v, %v", tasks, err)
	}
}
