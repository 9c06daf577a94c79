package landlock

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/internal/testkit"
)

// side fails unless err is an *Error of that side.
func side(t *testing.T, err error, want Side) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Side != want {
		t.Fatalf("error = %v, want side %d", err, want)
	}
	return e
}

func create(t *testing.T, a Attr) int {
	t.Helper()
	fd, err := Create(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func open(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// restrict puts this thread behind the ruleset until the test's subprocess ends.
func restrict(t *testing.T, fd int) {
	t.Helper()
	runtime.LockOSThread()
	if err := RestrictThread(fd); err != nil {
		t.Fatal(err)
	}
}

func TestABI(t *testing.T) {
	testkit.Require(t, testkit.Landlock(1))
	abi, err := ABI()
	if err != nil || abi < 1 {
		t.Fatalf("ABI = %d, %v", abi, err)
	}
	if abi >= 7 && Errata() == 0 {
		t.Error("Errata = 0 on a kernel that can say")
	}
	fd := create(t, Attr{FilesOf(abi), NetworkOf(abi), ScopesOf(abi)})
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the ruleset survives execve: flags %#x, %v", flags, err)
	}
}

func TestCreate_refused(t *testing.T) {
	testkit.Require(t, testkit.Landlock(1))
	_, err := Create(Attr{})
	side(t, err, Bug)
	_, err = Create(Attr{FS: ReadFile | 1<<60})
	if e := side(t, err, Kernel); !errors.Is(e, unix.EINVAL) || !strings.Contains(e.Error(), "not known") {
		t.Errorf("Create(unknown right) = %v", e)
	}
}

func TestAdd_refused(t *testing.T) {
	testkit.Require(t, testkit.Landlock(4))
	fd := create(t, Attr{FS: ReadFile | ReadDir, Net: ConnectTCP})
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	side(t, AddPath(fd, pipe[0], ReadFile), Rule)
	side(t, AddPath(fd, open(t, "/dev/null"), ReadDir), Rule)
	side(t, AddPath(fd, open(t, "/"), 0), Rule)
	side(t, AddPath(fd, -1, ReadFile), Bug)
	side(t, AddPath(fd, open(t, "/"), Execute), Bug) // not taken away, so not to be granted
	side(t, AddPath(-1, open(t, "/"), ReadFile), Bug)
	side(t, AddPort(fd, 1, BindTCP), Bug)
	if err := AddPath(fd, open(t, "/dev/null"), ReadFile|ReadDir); err != nil {
		t.Errorf("AddPath(file, rights of a directory too) = %v", err)
	}
}

// TestEnforce_files holds a thread to one readable and one writable directory.
func TestEnforce_files(t *testing.T) {
	testkit.Require(t, testkit.Landlock(3))
	testkit.RunInSubprocess(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, d := range []string{"read", "write", "none"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, d, "f"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		abi, _ := ABI()
		handled := FilesOf(abi)
		fd := create(t, Attr{FS: handled})
		for d, access := range map[string]AccessFS{"read": ReadFiles, "write": WriteFiles} {
			if err := AddPath(fd, open(t, filepath.Join(dir, d)), access&handled); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan struct{})
		go func() { // the thread ends with this, and the test can clean up
			defer close(done)
			tryFiles(t, fd, dir)
		}()
		<-done
	})
}

func tryFiles(t *testing.T, fd int, dir string) {
	runtime.LockOSThread()
	if err := RestrictThread(fd); err != nil {
		t.Error(err)
		return
	}
	tests := []struct {
		name string
		do   func(dir string) error
		ok   string
	}{
		{"read", func(d string) error { _, err := os.ReadFile(d + "/f"); return err }, "read write"},
		{"write", func(d string) error { return os.WriteFile(d+"/f", nil, 0o644) }, "write"},
		{"truncate", func(d string) error { return os.Truncate(d+"/f", 0) }, "write"},
		{"mkdir", func(d string) error { return os.Mkdir(d+"/new", 0o755) }, "write"},
	}
	for _, tt := range tests {
		for _, d := range []string{"read", "write", "none"} {
			want := strings.Contains(tt.ok, d)
			if err := tt.do(filepath.Join(dir, d)); (err == nil) != want || (err != nil && !errors.Is(err, unix.EACCES)) {
				t.Errorf("%s in %s: %v, want allowed %v", tt.name, d, err, want)
			}
		}
	}
}

// TestEnforce_ports shows that a port rule looks at ports and at nothing else.
func TestEnforce_ports(t *testing.T) {
	testkit.Require(t, testkit.Landlock(4))
	testkit.RunInSubprocess(t, func(t *testing.T) {
		var ports [2]uint16
		for i := range ports {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ports[i] = uint16(l.Addr().(*net.TCPAddr).Port)
		}
		fd := create(t, Attr{Net: ConnectTCP | BindTCP})
		if err := AddPort(fd, ports[0], ConnectTCP); err != nil {
			t.Fatal(err)
		}
		restrict(t, fd)
		if err := connect(t, ports[0]); err != nil {
			t.Errorf("connect to the granted port: %v", err)
		}
		if err := connect(t, ports[1]); err != unix.EACCES {
			t.Errorf("connect to another port: %v, want EACCES", err)
		}
		s := socket(t)
		if err := unix.Bind(s, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != unix.EACCES {
			t.Errorf("bind: %v, want EACCES", err)
		}
	})
}

// TestEnforce_signals shows the scope that keeps signals inside.
func TestEnforce_signals(t *testing.T) {
	testkit.Require(t, testkit.Landlock(6))
	testkit.RunInSubprocess(t, func(t *testing.T) {
		parent := os.Getppid()
		if err := unix.Kill(parent, 0); err != nil {
			t.Fatalf("before: %v", err)
		}
		restrict(t, create(t, Attr{Scoped: ScopeSignal}))
		if err := unix.Kill(parent, 0); err != unix.EPERM {
			t.Errorf("signal to the outside: %v, want EPERM", err)
		}
		if Has(Errata(), 2) {
			if err := unix.Kill(os.Getpid(), 0); err != nil {
				t.Errorf("signal to its own process: %v", err)
			}
		}
	})
}

// TestRestrictThread_nobody needs no privilege at all.
func TestRestrictThread_nobody(t *testing.T) {
	testkit.Require(t, testkit.Landlock(1))
	testkit.Nobody(t, func(t *testing.T) {
		restrict(t, create(t, Attr{FS: ReadDir}))
		if _, err := os.ReadDir("/"); !errors.Is(err, unix.EACCES) {
			t.Errorf("listing /: %v, want EACCES", err)
		}
	})
}

func TestRestrictThread_refused(t *testing.T) {
	testkit.Require(t, testkit.Landlock(1))
	testkit.RunInSubprocess(t, func(t *testing.T) {
		runtime.LockOSThread()
		side(t, RestrictThread(-1), Bug)
		fd := create(t, Attr{FS: MakeBlock})
		var err error
		for range 17 {
			if err = RestrictThread(fd); err != nil {
				break
			}
		}
		if e := side(t, err, Kernel); !errors.Is(e, unix.E2BIG) {
			t.Errorf("RestrictThread the 17th time = %v, want E2BIG", e)
		}
	})
}

func socket(t *testing.T) int {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s) })
	return s
}

func connect(t *testing.T, port uint16) error {
	t.Helper()
	return unix.Connect(socket(t), &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
}
