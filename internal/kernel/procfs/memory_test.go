package procfs

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// page maps two pages of a file that is one page long, so that a copy across
// the border fails whatever protections it may ignore, and returns the first
// page and its address.
func page(t *testing.T) ([]byte, uint64) {
	t.Helper()
	size := os.Getpagesize()
	fd, err := unix.MemfdCreate("page", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(fd, 0, 2*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return b[:size], address(b)
}

func TestMemory(t *testing.T) {
	for _, way := range []string{"process_vm", "proc_mem"} {
		t.Run(way, func(t *testing.T) {
			var m Memory
			m.refused.Store(way == "proc_mem")
			b, at := page(t)
			pid := os.Getpid()
			copy(b, "hello")
			got := make([]byte, 5)
			if n, err := m.Read(pid, at, got); n != 5 || err != nil || string(got) != "hello" {
				t.Errorf("Read = %d, %v, %q", n, err, got)
			}
			if n, err := m.Read(pid, at, nil); n != 0 || err != nil {
				t.Errorf("Read of nothing = %d, %v", n, err)
			}
			if _, err := m.Read(unusedPID, at, got); !Gone(err) {
				t.Errorf("Read from nobody: %v, want gone", err)
			}
			if m.refused.Load() != (way == "proc_mem") {
				t.Error("way changed")
			}
		})
	}
}

// TestMemory_fault shows that no copy is cut short without an error.
func TestMemory_fault(t *testing.T) {
	b, at := page(t)
	end := at + uint64(len(b))
	tests := []struct {
		name string
		addr uint64
		size int
	}{
		{"null", 0, 8},
		{"across_the_end", end - 4, 8},
		{"unmapped_low", 8, 8},
		{"kernel_half", 0xffff_8000_0000_0000, 8},
		{"wraps", 1<<64 - 4, 8},
	}
	for _, refused := range []bool{false, true} {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				var m Memory
				m.refused.Store(refused)
				n, err := m.Read(os.Getpid(), tt.addr, make([]byte, tt.size))
				if !errors.Is(err, ErrFault) || n >= tt.size {
					t.Errorf("Read(%#x) = %d, %v, want ErrFault", tt.addr, n, err)
				}
			})
		}
	}
	if n, err := new(Memory).Read(os.Getpid(), end-8, make([]byte, 8)); n != 8 || err != nil {
		t.Errorf("Read up to the border = %d, %v", n, err)
	}
}

// What OpenMem opened stays the memory of that process when it is gone and its
// number is free.
func TestOpenMem(t *testing.T) {
	buf, addr := page(t)
	fd, err := OpenMem(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := unix.Pwrite(fd, []byte("written"), int64(addr)); n != 7 || err != nil {
		t.Fatalf("Pwrite = %d, %v", n, err)
	}
	if got := string(buf[:7]); got != "written" {
		t.Errorf("memory holds %q", got)
	}
	gone := exec.Command("cat")
	in, err := gone.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	other, err := OpenMem(gone.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	in.Close()
	gone.Wait()
	if n, _ := unix.Pwrite(other, []byte("x"), int64(addr)); n > 0 {
		t.Errorf("wrote %d bytes to a process that is gone", n)
	}
	if _, err := OpenMem(gone.Process.Pid); err == nil {
		t.Error("opened the memory of a process that is gone")
	}
}
