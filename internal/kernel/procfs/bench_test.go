package procfs

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func BenchmarkStat(b *testing.B) {
	pid := os.Getpid()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Stat(pid); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStatus(b *testing.B) {
	pid := os.Getpid()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Status(pid); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExe(b *testing.B) {
	pid := os.Getpid()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Exe(pid); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExeAt(b *testing.B) {
	dir, err := Dir(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(dir)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ExeAt(dir); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSocketInode(b *testing.B) {
	s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(s[0])
	defer unix.Close(s[1])
	pid := os.Getpid()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := SocketInode(pid, s[0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadMem(b *testing.B) {
	from := make([]byte, 28) // struct sockaddr_in6
	to := make([]byte, 28)
	at := address(from)
	pid := os.Getpid()
	for _, way := range []string{"process_vm", "proc_mem"} {
		b.Run(way, func(b *testing.B) {
			var m Memory
			m.refused.Store(way == "proc_mem")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Read(pid, at, to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestAllocations keeps the questions of a stopped connect off the heap.
func TestAllocations(t *testing.T) {
	s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s[0])
	defer unix.Close(s[1])
	pid, to := os.Getpid(), make([]byte, 16)
	at := address(to)
	var m Memory
	got := testing.AllocsPerRun(100, func() {
		if _, err := SocketInode(pid, s[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Read(pid, at, to); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("SocketInode and Read: %v allocations, want 0", got)
	}
}
