package event

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

func TestWriter(t *testing.T) {
	name := filepath.Join(t.TempDir(), "events")
	w, err := OpenWriter(name)
	if err != nil {
		t.Fatal(err)
	}
	s := testSession()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := w.Write(s.Stamp(samples["refuse"].event)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, _ := f.Stat(); info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, want 0600", info.Mode().Perm())
	}
	seen := make(map[uint64]bool)
	for in := bufio.NewScanner(f); in.Scan(); {
		var e struct{ Metadata struct{ Sequence uint64 } }
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			t.Fatalf("%v in %s", err, in.Bytes())
		}
		seen[e.Metadata.Sequence] = true
	}
	if len(seen) != 400 {
		t.Errorf("%d different events in the file, want 400", len(seen))
	}
}

func TestWriterAppends(t *testing.T) {
	name := filepath.Join(t.TempDir(), "events")
	for range 2 {
		w, err := OpenWriter(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write(samples["open"].event); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	got, _ := os.ReadFile(name)
	if n := bytes.Count(got, []byte("\n")); n != 2 {
		t.Errorf("%d lines after two sessions, want 2", n)
	}
}

func TestWriterDiskFull(t *testing.T) {
	w, err := OpenWriter("/dev/full")
	if err != nil {
		t.Skip("no /dev/full")
	}
	first := w.Write(samples["open"].event)
	if !errors.Is(first, syscall.ENOSPC) {
		t.Fatalf("Write = %v, want ENOSPC", first)
	}
	if second := w.Write(samples["open"].event); second != first || w.Err() != first || w.Close() != first {
		t.Errorf("the error does not stay: %v, %v", second, w.Err())
	}
}

// TestWriterCutsTornLine lets the kernel accept half a line: a file size limit
// acts as a disk that fills up in the middle of a write. It runs in a copy of
// the test binary, because a limit of the process can not be taken back.
func TestWriterCutsTornLine(t *testing.T) {
	if name := os.Getenv("SALLYPORT_TEST_EVENTS"); name != "" {
		writeUntilFull(name)
		return
	}
	name := filepath.Join(t.TempDir(), "events")
	cmd := exec.Command(os.Args[0], "-test.run=^TestWriterCutsTornLine$")
	cmd.Env = append(os.Environ(), "SALLYPORT_TEST_EVENTS="+name)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Fatalf("child: %v\n%s", err, out)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || got[len(got)-1] != '\n' {
		t.Fatalf("file of %d bytes does not end with a whole line", len(got))
	}
	for line := range bytes.Lines(got) {
		if !json.Valid(line) {
			t.Errorf("torn line %s", line)
		}
	}
}

func writeUntilFull(name string) {
	signal.Ignore(syscall.SIGXFSZ)
	lim := syscall.Rlimit{Cur: 5000, Max: 5000}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &lim); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	w, err := OpenWriter(name)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for range 100 {
		if err := w.Write(samples["refuse"].event); errors.Is(err, syscall.EFBIG) {
			os.Exit(3)
		}
	}
	fmt.Println("no error after 100 events")
	os.Exit(1)
}

func TestOpenWriterRefuses(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Symlink(victim, filepath.Join(dir, "symlink")))
	must(os.Symlink(filepath.Join(dir, "absent"), filepath.Join(dir, "dangling")))
	must(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "other"), nil, 0o600))
	must(os.Link(filepath.Join(dir, "other"), filepath.Join(dir, "hardlink")))
	for _, name := range []string{"symlink", "dangling", "hardlink"} {
		if w, err := OpenWriter(filepath.Join(dir, name)); !errors.Is(err, ErrUnsafeFile) {
			t.Errorf("OpenWriter(%s) = %v, %v, want ErrUnsafeFile", name, w, err)
		}
	}
	for _, name := range []string{"fifo", ".", "no/such/dir"} {
		if w, err := OpenWriter(filepath.Join(dir, name)); err == nil {
			t.Errorf("OpenWriter(%s) = %v, want an error", name, w)
		}
	}
	if got, _ := os.ReadFile(victim); string(got) != "mine\n" {
		t.Errorf("victim = %q", got)
	}
}

func BenchmarkDenial(b *testing.B) {
	w, err := OpenWriter(filepath.Join(b.TempDir(), "events"))
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	s := testSession()
	for b.Loop() {
		if err := w.Write(s.Stamp(Connection(Refuse, gitWho, evil, denied))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConnection(b *testing.B) {
	for b.Loop() {
		Connection(Open, gitWho, evil, forge)
	}
}

func BenchmarkRequest(b *testing.B) {
	who := gitWho.Shared()
	for b.Loop() {
		Request(HTTP{Method: "GET", Scheme: "https", Path: "/a/b", RawQuery: "x=1", Version: "1.1", UserAgent: "bench", Status: 200}, who, evil, forge)
	}
}
