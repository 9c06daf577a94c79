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

// filterOf is a classic BPF program: verdict for socket and connect, and
// everything else is allowed.
func (a *agent) filterOf(verdict uint32) uintptr {
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load}, // the number, at offset 0
		{Code: equal, K: unix.SYS_CONNECT, Jt: 2},
		{Code: equal, K: unix.SYS_SOCKET, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: verdict},
	}
	var text []byte
	for _, i := range program {
		text = binary.NativeEndian.AppendUint16(text, i.Code)
		text = append(text, i.Jt, i.Jf)
		text = binary.NativeEndian.AppendUint32(text, i.K)
	}
	prog, at := a.heap.alloc(16)
	binary.NativeEndian.PutUint16(prog, uint16(len(program)))
	binary.NativeEndian.PutUint64(prog[8:], uint64(a.heap.put(text)))
	return at
}

func noNewPrivs() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return faultf("no_new_privs: %w", err)
	}
	return nil
}

func secondListener(a *agent) {
	for _, v := range []struct {
		name  string
		flags uintptr
	}{
		{"plain", unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
		{"synchronised", unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH},
		{"operation_high_bits", unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
	} {
		a.try(v.name, func() error {
			runtime.LockOSThread() // and never unlock: the thread ends with its filter
			if err := noNewPrivs(); err != nil {
				return err
			}
			op := uintptr(unix.SECCOMP_SET_MODE_FILTER)
			if v.name == "operation_high_bits" {
				op |= high
			}
			fd, err := call(unix.SYS_SECCOMP, op, v.flags, a.filterOf(unix.SECCOMP_RET_ALLOW))
			if err == nil {
				unix.Close(int(fd))
			}
			return err
		})
	}
}

// ownFilter puts filters on top of the sandbox's and looks whether anything
// opened. The strictest answer of all filters counts; here it must stay so.
func ownFilter(a *agent) {
	for name, verdict := range map[string]uint32{
		"allow": unix.SECCOMP_RET_ALLOW, "trace": unix.SECCOMP_RET_TRACE, "log": unix.SECCOMP_RET_LOG, "notify": unix.SECCOMP_RET_USER_NOTIF,
	} {
		a.try(name, func() error {
			fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return faultf("socket: %w", err)
			}
			defer unix.Close(fd)
			sa := sockaddr(parse(a.TCP4))
			r, err := a.inClone(unix.CLONE_FILES,
				[]uintptr{unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1},
				[]uintptr{unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, a.filterOf(verdict)},
				[]uintptr{unix.SYS_CONNECT, uintptr(fd), a.heap.put(sa), uintptr(len(sa))},
				[]uintptr{unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP})
			if err != nil {
				return err
			}
			if a.Inside && result(r[2]) == nil && a.prove(fd, name) == nil {
				return &refusal{"connected", ""}
			}
			if a.Inside && result(r[3]) == nil {
				return &refusal{"opened", ""}
			}
			return nil
		})
	}
}

// ownPosture reads what the kernel says of this process. A find is an escape of
// something that should have been taken away.
func ownPosture(a *agent) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		a.try("status", func() error { return faultf("%w", err) })
		return
	}
	want := map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapAmb": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2",
	}
	for l := range strings.Lines(string(status)) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), ":")
		w, listed := want[k]
		v = strings.TrimSpace(v)
		switch {
		case listed:
			a.try(k, func() error { return expect(v == w, "%s is %s", k, v) })
		case k == "Uid" || k == "Gid":
			a.try(k, func() error {
				f := strings.Fields(v)
				return expect((f[0] != "0" || k == "Gid" && a.Group == 0) && f[0] == f[1] && f[1] == f[2] && f[2] == f[3], "%s is %s", k, v)
			})
		case k == "Groups":
			a.try(k, func() error {
				return expect(a.Group == 0 || !bytes.Contains([]byte(" "+v+" "), []byte(" 0 ")), "group 0 is among %s", v)
			})
		}
	}
	a.try("core_dumps", func() error {
		var l unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
			return faultf("%w", err)
		}
		return expect(l.Max <= 1, "core dumps up to %d bytes", l.Max)
	})
	// At 0 a crash still starts the host's handler of cores, where it has one.
	a.try("core_handler", func() error {
		var l unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_CORE, &l) == nil && l.Max == 0 {
			return &absent{"the limit of core dumps is 0 for everybody here"}
		}
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
			return faultf("%w", err)
		}
		return expect(l.Cur == 1, "the limit of core dumps is %d, at which a crash starts the host's handler", l.Cur)
	})
}

// expect is an attempt that looks for a fault: none is a refusal.
func expect(fine bool, format string, args ...any) error {
	if fine {
		return &refusal{wordNothing, ""}
	}
	return foundf(format, args...)
}

// poison are the variables that the suite puts into the environment of whoever
// starts the sandbox: code that loads into other programs, and a secret.
var poison = []string{"LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "NODE_OPTIONS", "BUN_OPTIONS", "PYTHONSTARTUP", "BASH_ENV", "ATTACK_API_KEY"}

func environmentCase(a *agent) {
	b, err := os.ReadFile("/proc/self/environ")
	for _, name := range poison {
		a.try(name, func() error {
			if err != nil {
				return faultf("%w", err)
			}
			if !bytes.Contains(b, []byte(name+"="+poisonValue)) {
				return &refusal{wordNothing, ""}
			}
			return nil
		})
	}
}

const poisonValue = "/nonexistent/of-the-caller"

// terminal reaches for a terminal that belongs to the same user, by its path
// and through a descriptor.
func terminal(a *agent) {
	a.try("open", func() error {
		if a.Pty == "" {
			return &absent{"no terminal could be made"}
		}
		fd, err := unix.Open(a.Pty, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte(a.mark("open")))
		return err
	})
	c := a.heap.put([]byte("x"))
	// Without a terminal of its own the kernel's answer would be ENOTTY: the
	// filter has to come before it.
	for name, request := range map[string]uintptr{"push": unix.TIOCSTI, "push_high_bits": unix.TIOCSTI | high, "console": unix.TIOCLINUX, "console_high_bits": unix.TIOCLINUX | high} {
		a.probe(name, func() error {
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return faultf("socketpair: %w", err)
			}
			defer unix.Close(p[0])
			defer unix.Close(p[1])
			_, err = call(unix.SYS_IOCTL, uintptr(p[0]), request, c)
			return err
		})
	}
	a.probe("controlling", func() error {
		fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
			return nil
		}
		if !a.Inside {
			return fmt.Errorf("%w", unix.ENXIO)
		}
		return err
	})
}
