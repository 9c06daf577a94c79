package attack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// preys are the processes outside that are attacked.
func (a *agent) preys() map[string]Prey {
	return map[string]Prey{"victim": a.Victim, "supervisor": a.Holder}
}

const ptraceSeize = 0x4206

func ptraceCase(a *agent) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for name, p := range a.preys() {
		a.try(name, func() error {
			_, err := call(unix.SYS_PTRACE, ptraceSeize, uintptr(p.PID), 0, 0)
			return err
		})
	}
	a.try("guard", func() error {
		_, err := call(unix.SYS_PTRACE, ptraceSeize, uintptr(a.Guard), 0, 0)
		if err == unix.EPERM && !a.Inside {
			return nil // the second victim of the control is traced already
		}
		return err
	})
	a.try("trace_me", func() error {
		r, err := a.inClone(0, []uintptr{unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0, 0})
		if err != nil {
			return err
		}
		return result(r[0])
	})
}

// iovec builds a struct iovec.
func (a *agent) iovec(at, n uintptr) uintptr {
	b := binary.NativeEndian.AppendUint64(nil, uint64(at))
	return a.heap.put(binary.NativeEndian.AppendUint64(b, uint64(n)))
}

func processVM(a *agent) {
	for name, p := range a.preys() {
		b, at := a.heap.alloc(p.Len)
		a.try(name+"_read", func() error {
			if _, err := call(unix.SYS_PROCESS_VM_READV, uintptr(p.PID), a.iovec(at, uintptr(p.Len)), 1, a.iovec(uintptr(p.Addr), uintptr(p.Len)), 1, 0); err != nil {
				return err
			}
			return secretIn(b, p.Secret)
		})
	}
	v := a.Victim
	a.try("victim_write", func() error {
		// What is written is what is there: a success harms nobody.
		_, err := call(unix.SYS_PROCESS_VM_WRITEV, uintptr(v.PID), a.iovec(a.heap.put([]byte(v.Secret)), uintptr(v.Len)), 1, a.iovec(uintptr(v.Addr), uintptr(v.Len)), 1, 0)
		return err
	})
	a.probe("madvise", func() error {
		fd, err := unix.PidfdOpen(v.PID, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = call(unix.SYS_PROCESS_MADVISE, uintptr(fd), 0, 0, 9999, 0)
		return err
	})
	a.try("kcmp", func() error {
		_, err := call(unix.SYS_KCMP, uintptr(v.PID), uintptr(v.PID), 2, 0, 0)
		return absentIf(err, a, "kcmp", unix.ENOSYS)
	})
}

func secretIn(b []byte, secret string) error {
	if !bytes.Contains(b, []byte(secret)) {
		return &refusal{wordNothing, ""}
	}
	return nil
}

// procFiles opens what /proc shows of other processes. Reading the names is not
// enough: the content has to come.
func procFiles(a *agent) {
	for name, p := range a.preys() {
		dir := fmt.Sprintf("/proc/%d", p.PID)
		a.try(name+"_mem", func() error {
			f, err := os.Open(dir + "/mem")
			if err != nil {
				return err
			}
			defer f.Close()
			b := make([]byte, p.Len)
			if _, err := f.ReadAt(b, int64(p.Addr)); err != nil {
				return err
			}
			return secretIn(b, p.Secret)
		})
		a.try(name+"_mem_write", func() error {
			f, err := os.OpenFile(dir+"/mem", os.O_RDWR, 0)
			if err == nil {
				f.Close()
			}
			return err
		})
		for _, file := range []string{"environ", "maps", "auxv", "smaps", "pagemap", "task/PID/environ"} {
			a.try(name+"_"+strings.ReplaceAll(file, "/", "_"), func() error {
				file := strings.Replace(file, "PID", itoa(p.PID), 1)
				if file == "pagemap" {
					return openable(dir + "/" + file)
				}
				b, err := os.ReadFile(dir + "/" + file)
				if err == nil && len(b) == 0 {
					return &refusal{"EACCES", "empty"}
				}
				return err
			})
		}
		for _, link := range []string{"exe", "cwd", "root", "fd/0"} {
			a.try(name+"_"+strings.ReplaceAll(link, "/", "_"), func() error {
				_, err := os.Readlink(dir + "/" + link)
				return err
			})
		}
		a.try(name+"_map_files", func() error { _, err := os.ReadDir(dir + "/map_files"); return err })
	}
	v := fmt.Sprintf("/proc/%d", a.Victim.PID)
	a.try("file_of_victim", func() error { return a.readSecret(fmt.Sprintf("%s/fd/%d", v, a.Victim.File)) })
	a.try("root_of_victim", func() error { return a.readSecret(v + "/root" + a.own("secret")) })
	a.try("clear_refs", func() error {
		f, err := os.OpenFile(v+"/clear_refs", os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	})
	a.try("oom_score", func() error {
		f, err := os.OpenFile(v+"/oom_score_adj", os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	})
}

func openable(path string) error {
	f, err := os.Open(path)
	if err == nil {
		f.Close()
	}
	return err
}

func pidfdGetfd(a *agent) {
	for name, fd := range map[string]int{"file": a.Victim.File, "socket": a.Victim.Socket} {
		a.try(name, func() error {
			p, err := unix.PidfdOpen(a.Victim.PID, 0)
			if err != nil {
				return err
			}
			defer unix.Close(p)
			got, err := unix.PidfdGetfd(p, fd, 0)
			if err != nil {
				return err
			}
			defer unix.Close(got)
			if name == "socket" {
				return a.prove(got, name)
			}
			return nil
		})
	}
	a.try("supervisor", func() error {
		p, err := unix.PidfdOpen(a.Holder.PID, 0)
		if err != nil {
			return err
		}
		defer unix.Close(p)
		got, err := unix.PidfdGetfd(p, 1, 0)
		if err == nil {
			unix.Close(got)
		}
		return err
	})
	a.try("flags_high_bits", func() error {
		p, err := unix.PidfdOpen(a.Victim.PID, 0)
		if err != nil {
			return err
		}
		defer unix.Close(p)
		got, err := call(unix.SYS_PIDFD_GETFD, uintptr(p)|high, uintptr(a.Victim.File)|high, high)
		if err == nil {
			unix.Close(int(got))
		}
		return err
	})
}

// limitsOutside sets limits to what they are: a success harms nobody.
func limitsOutside(a *agent) {
	for name, p := range a.preys() {
		halves(name, func(name string, garbage uintptr) {
			a.try(name, func() error {
				_, at := a.heap.alloc(16)
				pid := uintptr(p.PID) | garbage
				if _, err := call(unix.SYS_PRLIMIT64, pid, unix.RLIMIT_NOFILE, 0, at); err != nil {
					return err
				}
				_, err := call(unix.SYS_PRLIMIT64, pid, unix.RLIMIT_NOFILE, at, 0)
				return err
			})
		})
	}
}

func schedulingOutside(a *agent) {
	const lowest = 19 // the only nice value that every process may ask for
	for name, p := range a.preys() {
		pid := uintptr(p.PID)
		mask := a.heap.put(binary.NativeEndian.AppendUint64(nil, ^uint64(0)))
		node0 := a.heap.put(number64(1))
		_, zero := a.heap.alloc(8)
		for _, v := range []struct {
			name string
			args []uintptr
		}{
			{"affinity", []uintptr{unix.SYS_SCHED_SETAFFINITY, pid, 8, mask}},
			{"policy", []uintptr{unix.SYS_SCHED_SETSCHEDULER, pid, 0, zero}},
			{"parameter", []uintptr{unix.SYS_SCHED_SETPARAM, pid, zero}},
			{"priority", []uintptr{unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, pid, lowest}},
			{"io_priority", []uintptr{unix.SYS_IOPRIO_SET, 1, pid, 2<<13 | 4}},
			{"pages", []uintptr{unix.SYS_MIGRATE_PAGES, pid, 64, node0, node0}},
		} {
			a.try(name+"_"+v.name, func() error {
				_, err := call(v.args[0], v.args[1:]...)
				return absentIf(err, a, "this call", unix.ENOSYS)
			})
		}
	}
}
