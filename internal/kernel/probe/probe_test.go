package probe

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sallyport/internal/testkit"
)

// host finds the facts and fails for an error.
func host(t *testing.T) Facts {
	t.Helper()
	f, err := Host()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestHost holds the probes to a kernel of which it is known that it has everything.
func TestHost(t *testing.T) {
	f := host(t)
	if f.Kernel == "" || f.Arch == "" || f.UID != os.Geteuid() || f.GID != os.Getegid() {
		t.Errorf("Host = %+v", f)
	}
	if !f.ProcMem || !f.ProcFD {
		t.Errorf("a child cannot be read: %+v", f)
	}
	n := f.SeccompNotify
	switch k := testkit.Kernel(); {
	case k.Before(testkit.Release{Major: 5, Minor: 14}):
		t.Skipf("notification is not complete in %v", k)
	case !n.NewListener || !n.AddFD || !n.AddFDSend:
		t.Errorf("on %v: %+v", k, n)
	case !k.Before(testkit.Release{Major: 6, Minor: 17}) && (!n.WaitKillable || !n.SyncWakeUp):
		t.Errorf("on %v: %+v", k, n)
	}
	if f.SeccompMode == 0 && len(f.BlockedSyscalls) > 0 && !slices.Equal(f.BlockedSyscalls, []string{"io_uring_setup EPERM"}) {
		t.Logf("without a filter the kernel itself refuses %v", f.BlockedSyscalls)
	}
}

// Root can have a network namespace with a pair and rules; the attempt changes
// nothing here.
func TestNetNS(t *testing.T) {
	testkit.Netns(t, func(t *testing.T) {
		before, err := os.ReadFile("/proc/self/net/dev")
		if err != nil {
			t.Fatal(err)
		}
		if f := host(t); !f.NetNS.Works || f.NetNS.Why != "" {
			t.Errorf("network namespace: %+v", f.NetNS)
		}
		after, err := os.ReadFile("/proc/self/net/dev")
		if err != nil || string(before) != string(after) {
			t.Errorf("interfaces before and after: %s%s%v", before, after, err)
		}
	})
}

func TestHost_nobody(t *testing.T) {
	testkit.Nobody(t, func(t *testing.T) {
		f := host(t)
		if f.UID == 0 || !f.NoNewPrivs || f.Caps.Effective != 0 || f.Caps.Permitted != 0 {
			t.Errorf("Host = %+v", f)
		}
		if !f.ProcMem || !f.ProcFD || !f.SeccompNotify.NewListener || !f.SeccompNotify.AddFDSend || f.NetNS.Works {
			t.Errorf("without privilege: %+v", f)
		}
	})
}

// TestNoTrace compares what the kernel says about this process before and after.
func TestNoTrace(t *testing.T) {
	testkit.NoLeaks(t)
	look := func() string {
		var b strings.Builder
		tasks, _ := filepath.Glob("/proc/self/task/*/status")
		for _, name := range tasks {
			status, _ := os.ReadFile(name)
			for line := range strings.Lines(string(status)) {
				if key, _, _ := strings.Cut(line, ":"); slices.Contains([]string{"NoNewPrivs", "Seccomp", "Seccomp_filters", "SigBlk"}, key) {
					b.WriteString(line)
				}
			}
		}
		return strings.Join(slices.Compact(slices.Sorted(strings.Lines(b.String()))), "")
	}
	// A thread that the runtime is making blocks every signal until it runs.
	posture := func() (s string) {
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			if s = look(); strings.Count(s, "SigBlk:") == 1 {
				return s
			}
			if time.Now().After(end) {
				t.Fatalf("a thread goes on without its signals:\n%s", s)
			}
		}
	}
	host(t) // what the runtime opens once is open now
	before, open := posture(), openFDs(t)
	for range 5 {
		host(t)
	}
	if d := cmp.Diff(before, posture()); d != "" {
		t.Errorf("threads changed (-before +after):\n%s", d)
	}
	if now := openFDs(t); now != open {
		t.Errorf("%d descriptors, were %d", now, open)
	}
	if kids := testkit.Children(); len(kids) > 0 {
		t.Errorf("children left: %v", kids)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestProfile puts the probes behind the profile of a container.
func TestProfile(t *testing.T) {
	testkit.RunInSubprocess(t, func(t *testing.T) {
		behind(t, 0,
			deny{nr: unix.SYS_PIDFD_GETFD, action: toEPERM},
			deny{nr: unix.SYS_PROCESS_VM_READV, action: toEPERM},
			deny{nr: unix.SYS_CLONE3, action: toENOSYS},
			deny{nr: unix.SYS_UNSHARE, action: toEPERM},
			deny{nr: unix.SYS_KCMP, action: toKill},
			deny{nr: unix.SYS_KEYCTL, action: unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)})
		f := host(t)
		var got []string
		for _, b := range f.BlockedSyscalls {
			if b != "io_uring_setup EPERM" { // a matter of the host's own settings
				got = append(got, b)
			}
		}
		want := []string{"pidfd_getfd EPERM", "process_vm_readv EPERM", "kcmp bad system call", "clone3 ENOSYS", "unshare EPERM", "keyctl EACCES"}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("BlockedSyscalls (-want +got):\n%s", d)
		}
		if f.NetNS.Works || f.UserNet.Works || f.NetNS.Why == "" || f.UserNet.Why == "" {
			t.Errorf("namespaces without unshare: %+v, %+v", f.NetNS, f.UserNet)
		}
		if f.PidfdGetfd || f.ProcessVMReadv || f.UserNS || !f.ProcMem || !f.PidfdOpen {
			t.Errorf("Host = %+v", f)
		}
		if f.SeccompMode != 2 || f.SeccompFilters < 1 || !f.SeccompNotify.NewListener {
			t.Errorf("seccomp: %d, %d filters, %+v", f.SeccompMode, f.SeccompFilters, f.SeccompNotify)
		}
	})
}

func TestNested(t *testing.T) {
	testkit.RunInSubprocess(t, func(t *testing.T) {
		behind(t, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, deny{nr: unix.SYS_GETPPID, action: toNotify})
		q, err := Quick()
		if err != nil {
			t.Fatal(err)
		}
		for name, n := range map[string]SeccompNotify{"Quick": q.SeccompNotify, "Host": host(t).SeccompNotify} {
			if n.NewListener || !n.NestedListener || n.Why == "" {
				t.Errorf("%s: %+v, want a nested listener", name, n)
			}
		}
	})
}

func TestRefused(t *testing.T) {
	testkit.RunInSubprocess(t, func(t *testing.T) {
		behind(t, 0, deny{nr: unix.SYS_SECCOMP, bits: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, action: toEPERM})
		q, err := Quick()
		if err != nil {
			t.Fatal(err)
		}
		for name, n := range map[string]SeccompNotify{"Quick": q.SeccompNotify, "Host": host(t).SeccompNotify} {
			if n.NewListener || n.NestedListener || n.Why == "" {
				t.Errorf("%s: %+v, want a refused listener", name, n)
			}
		}
	})
}

// TestHarmful plays a kernel that takes the flag and then kills who used it.
func TestHarmful(t *testing.T) {
	testkit.RunInSubprocess(t, func(t *testing.T) {
		behind(t, 0, deny{nr: unix.SYS_SECCOMP, bits: unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, action: toKill})
		n := host(t).SeccompNotify
		if n.WaitKillable || !n.NewListener || !n.AddFDSend || n.Why != "" {
			t.Errorf("SeccompNotify = %+v, want all but WaitKillable", n)
		}
	})
}

// TestWithoutFlag is the way of kernels before 5.19.
func TestWithoutFlag(t *testing.T) {
	for range 20 {
		seen, err := observeWith(0)
		if err != nil {
			t.Fatal(err)
		}
		if !seen.NewListener || seen.WaitKillable || !seen.AddFD || !seen.AddFDSend {
			t.Fatalf("observeWith(0) = %+v", seen)
		}
	}
}

func TestQuickNotify(t *testing.T) {
	tests := []struct {
		release string
		want    bool
	}{{"5.15.0-91-generic", false}, {"5.18.19", false}, {"6.17.0", true}, {"7.0.1-rc1", true}}
	for _, tt := range tests {
		if got := quickNotify(tt.release, 0); got.WaitKillable != tt.want || !got.NewListener {
			t.Errorf("quickNotify(%s) = %+v, want WaitKillable %v", tt.release, got, tt.want)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"5.19.0": true, "5.18.99-x": false, "6.1.0-13-amd64": true, "6": true, "5": false, "": false,
		"x": false, "5.19": true, "5.19rc1": true, "99999999999999999999.1": true, "4.4.0": false,
	} {
		if got := atLeast(release, 5, 19); got != want {
			t.Errorf("atLeast(%q, 5, 19) = %v, want %v", release, got, want)
		}
	}
}

// TestMethods wants a row for each fact, in order.
func TestMethods(t *testing.T) {
	var want, got []string
	facts(reflect.TypeFor[Facts](), "", &want)
	for _, m := range Methods {
		got = append(got, m.Fact)
		if m.How == "" {
			t.Errorf("%s: how?", m.Fact)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Methods (-want +got):\n%s", d)
	}
}

func facts(t reflect.Type, prefix string, names *[]string) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Type == reflect.TypeFor[SeccompNotify]() {
			facts(f.Type, name+".", names)
			continue
		}
		*names = append(*names, prefix+name)
	}
}

func TestJSON(t *testing.T) {
	b, err := json.Marshal(host(t))
	if err != nil {
		t.Fatal(err)
	}
	var back Facts
	if err := json.Unmarshal(b, &back); err != nil || back.Kernel == "" {
		t.Errorf("Unmarshal: %v", err)
	}
	if !strings.Contains(string(b), `"blocked_syscalls":[`) {
		t.Errorf("no list of blocked calls in %s", b)
	}
}

func TestPIDLimit(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a/pids.max": "max\n", "a/b/pids.max": "300\n", "a/b/c/pids.max": "max\n", "a/d/pids.max": "9\n", "a/d/e/pids.max": "50\n",
		"pids/docker/x/pids.max": "64\n", "bad/pids.max": "some\n",
		"a/b/pids.current": "290\n", "a/d/pids.current": "12\n", "a/d/e/pids.current": "12\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for own, want := range map[string]int64{
		"0::/a\n": -1, "0::/a/b/c\n": 300, "0::/a/d/e\n": 9, "0::/gone\n": -1, "0::/bad\n": -1, "": -1, "nonsense\n": -1,
		"12:memory:/docker/x\n7:cpu,pids:/docker/x\n0::/a/b\n": 64, "0::/../../a/d\n": 9,
	} {
		if got := pidLimit(dir, own); got != want {
			t.Errorf("pidLimit(%q) = %d, want %d", own, got, want)
		}
	}
	for own, want := range map[string]int64{"0::/a\n": -1, "0::/a/b/c\n": 10, "0::/a/d/e\n": 0, "7:pids:/docker/x\n": 64} {
		if _, got := pidRoom(dir, own); got != want {
			t.Errorf("pidRoom(%q) = %d, want %d", own, got, want)
		}
	}
}

func TestUserKernel(t *testing.T) {
	for _, tt := range []struct{ log, cpu, want string }{
		{"[   0.000000] Starting gVisor...\n", "vendor_id : GenuineIntel", "gVisor"},
		{"Linux version 6.18", "vendor_id\t: User Mode Linux\n", "User Mode Linux"},
		{"Linux version 6.18", "vendor_id : GenuineIntel", ""},
	} {
		if got := userKernel([]byte(tt.log), []byte(tt.cpu)); got != tt.want {
			t.Errorf("userKernel(%q, %q) = %q, want %q", tt.log, tt.cpu, got, tt.want)
		}
	}
}

func BenchmarkQuick(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Quick(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHost(b *testing.B) {
	for b.Loop() {
		if _, err := Host(); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleQuick() {
	f, err := Quick()
	fmt.Println(f.Kernel != "", err)
	// Output: true <nil>
}

func TestTaskLimits(t *testing.T) {
	var user unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &user); err != nil {
		t.Fatal(err)
	}
	want := [3]int64{-1, -1, int64(user.Cur)} // none is -1
	for i, name := range []string{"threads-max", "pid_max"} {
		b, err := os.ReadFile("/proc/sys/kernel/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(b), &want[i]); err != nil {
			t.Fatal(err)
		}
	}
	if got := TaskLimits(); got != want {
		t.Errorf("TaskLimits() = %v, want %v", got, want)
	}
}
