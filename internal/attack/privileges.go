package attack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/landlock"
)

func clone3(a *agent) {
	a.probe("no_arguments", func() error { _, err := call(unix.SYS_CLONE3, 0, 0); return err })
	args, at := a.heap.alloc(88)
	binary.NativeEndian.PutUint64(args, unix.CLONE_NEWUSER|unix.CLONE_SIGHAND) // contradicts itself
	a.probe("user_namespace", func() error { _, err := call(unix.SYS_CLONE3, at, 88); return err })
}

var namespaceFlags = []struct {
	name string
	flag uintptr
}{
	{"net", unix.CLONE_NEWNET}, {"mount", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"uts", unix.CLONE_NEWUTS},
	{"ipc", unix.CLONE_NEWIPC}, {"cgroup", unix.CLONE_NEWCGROUP},
}

func userNamespace(a *agent) {
	clone := func(name string, flags uintptr) {
		a.try(name, func() error {
			_, err := a.inClone(flags, []uintptr{unix.SYS_GETPID})
			return err
		})
	}
	clone("clone", unix.CLONE_NEWUSER)
	clone("clone_high_bits", unix.CLONE_NEWUSER|high)
	for _, n := range namespaceFlags {
		clone("clone_with_"+n.name, unix.CLONE_NEWUSER|n.flag)
	}
	a.try("unshare", func() error {
		r, err := a.inClone(0, []uintptr{unix.SYS_UNSHARE, unix.CLONE_NEWUSER})
		if err != nil {
			return err
		}
		return result(r[0])
	})
}

// namespaces makes calls that an unprivileged process cannot complete; what
// matters is that they end before the kernel's own check.
func namespaces(a *agent) {
	for _, n := range namespaceFlags {
		a.probe("clone_"+n.name, func() error {
			_, err := a.inClone(n.flag, []uintptr{unix.SYS_GETPID})
			return err
		})
		a.probe("unshare_"+n.name, func() error { _, err := call(unix.SYS_UNSHARE, n.flag); return err })
	}
	a.probe("setns", func() error { _, err := call(unix.SYS_SETNS, ^uintptr(0), 0); return err })
	a.probe("setns_own_net", func() error {
		fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = call(unix.SYS_SETNS, uintptr(fd), unix.CLONE_NEWNET)
		return err
	})
}

// probes makes a table of calls, each by its number and arguments.
func (a *agent) probes(table []probeCall) {
	for _, p := range table {
		a.probe(p.name, func() error { _, err := call(p.nr, p.args...); return err })
	}
}

type probeCall struct {
	name string
	nr   uintptr
	args []uintptr
}

const minusOne = ^uintptr(0)

func mounts(a *agent) {
	nowhere := a.heap.text("/nonexistent/attack")
	tmpfs := a.heap.text("tmpfs")
	cwd := uintptr(0xffffffffffffff9c) // AT_FDCWD
	a.probes([]probeCall{
		{"mount", unix.SYS_MOUNT, []uintptr{tmpfs, nowhere, tmpfs, 0, 0}},
		{"umount", unix.SYS_UMOUNT2, []uintptr{nowhere, 0}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, []uintptr{nowhere, nowhere}},
		{"chroot", unix.SYS_CHROOT, []uintptr{nowhere}},
		{"fsopen", unix.SYS_FSOPEN, []uintptr{tmpfs, 0}},
		{"fsconfig", unix.SYS_FSCONFIG, []uintptr{minusOne, 0, 0, 0, 0}},
		{"fsmount", unix.SYS_FSMOUNT, []uintptr{minusOne, 0, 0}},
		{"fspick", unix.SYS_FSPICK, []uintptr{cwd, nowhere, 0}},
		{"move_mount", unix.SYS_MOVE_MOUNT, []uintptr{cwd, nowhere, cwd, nowhere, 0}},
		{"open_tree", unix.SYS_OPEN_TREE, []uintptr{cwd, nowhere, 1}},
		{"mount_setattr", unix.SYS_MOUNT_SETATTR, []uintptr{cwd, nowhere, 0, 0, 0}},
	})
}

func privilegedCalls(a *agent) {
	text := a.heap.text("attack")
	_, room := a.heap.alloc(256)
	a.probes([]probeCall{
		{"bpf", unix.SYS_BPF, []uintptr{9999, room, 0}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, []uintptr{0, 0, minusOne, minusOne, 0}},
		{"userfaultfd", unix.SYS_USERFAULTFD, []uintptr{1 /* UFFD_USER_MODE_ONLY */}},
		{"add_key", unix.SYS_ADD_KEY, []uintptr{a.heap.text("user"), text, text, 6, uintptr(0xfffffffffffffffd)}},
		{"request_key", unix.SYS_REQUEST_KEY, []uintptr{a.heap.text("user"), text, 0, 0}},
		{"keyctl", unix.SYS_KEYCTL, []uintptr{0, uintptr(0xfffffffffffffffd), 0}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, []uintptr{0, 0, 0, 0}},
		{"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD, []uintptr{minusOne, minusOne, 0, 0, 0}},
		{"init_module", unix.SYS_INIT_MODULE, []uintptr{0, 0, 0}},
		{"finit_module", unix.SYS_FINIT_MODULE, []uintptr{minusOne, 0, 0}},
		{"delete_module", unix.SYS_DELETE_MODULE, []uintptr{text, 0}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, []uintptr{minusOne, room, 0}},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, []uintptr{0xffff, 0}},
		{"personality", unix.SYS_PERSONALITY, []uintptr{0x0040000 /* ADDR_NO_RANDOMIZE */}},
		{"personality_high_bits", unix.SYS_PERSONALITY, []uintptr{0x0400000 /* READ_IMPLIES_EXEC */ | high}},
		{"acct", unix.SYS_ACCT, []uintptr{text}},
		{"swapon", unix.SYS_SWAPON, []uintptr{text, 0}},
		{"reboot", unix.SYS_REBOOT, []uintptr{0, 0, 0, 0}},
		{"syslog", unix.SYS_SYSLOG, []uintptr{3, room, 16}},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, []uintptr{0, 1}},
		{"quotactl", unix.SYS_QUOTACTL, []uintptr{0, text, 0, 0}},
		{"vhangup", unix.SYS_VHANGUP, nil},
		{"sethostname", unix.SYS_SETHOSTNAME, []uintptr{text, 1 << 20}},
	})
}

func regainRoot(a *agent) {
	other := uintptr(0)
	if a.Group == 0 {
		other = 1 // in group 0 already, as a pod's agent may be
	}
	for _, v := range []struct {
		name string
		args []uintptr
	}{
		{"setuid", []uintptr{unix.SYS_SETUID, 0}},
		{"setreuid", []uintptr{unix.SYS_SETREUID, 0, 0}},
		{"setresuid", []uintptr{unix.SYS_SETRESUID, 0, 0, 0}},
		{"setgid", []uintptr{unix.SYS_SETGID, other}},
		{"setresgid", []uintptr{unix.SYS_SETRESGID, other, other, other}},
		{"setgroups", []uintptr{unix.SYS_SETGROUPS, 1, a.heap.put(number(0))}},
	} {
		a.probe(v.name, func() error { _, err := call(v.args[0], v.args[1:]...); return err })
	}
	a.probe("capset", func() error {
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{{Effective: 1 << unix.CAP_NET_ADMIN, Permitted: 1 << unix.CAP_NET_ADMIN}}
		return unix.Capset(&hdr, &data[0])
	})
	a.probe("ambient", func() error {
		return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_ADMIN, 0, 0)
	})
	a.probe("new_privs", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) })
}

// setuidProgram runs programs that have privilege of their own, and looks at
// what they were given. Each prints nothing and does nothing.
func setuidProgram(a *agent) {
	a.try("staged", func() error {
		p := filepath.Join(a.Tools, "suid")
		if _, err := os.Stat(p); err != nil {
			return &absent{"only root can make a set-uid program"}
		}
		return a.privilegeOf(p)
	})
	a.try("file_capabilities", func() error {
		p := filepath.Join(a.Tools, "filecap")
		if _, err := os.Stat(p); err != nil {
			return &absent{"only root can make a program with capabilities"}
		}
		return a.privilegeOf(p)
	})
	a.try("of_this_host", func() error {
		p, err := exec.LookPath("passwd")
		if err != nil {
			p = "/usr/bin/passwd"
		}
		st, err := os.Stat(p)
		if err != nil || st.Mode()&os.ModeSetuid == 0 {
			return &absent{"no set-uid passwd here"}
		}
		return effective(exec.Command(p))
	})
}

// privilegeOf runs a copy of this program that reports who it became.
func (a *agent) privilegeOf(path string) error {
	out, err := exec.Command(path, hidden, "whoami").Output()
	if err != nil {
		return startErrno(err)
	}
	if strings.Contains(string(out), "privileged") {
		return foundf("%s", strings.TrimSpace(string(out)))
	}
	return &refusal{wordNothing, ""}
}

// startErrno finds the errno of a process that could not be started.
func startErrno(err error) error {
	var exit *exec.ExitError
	if asError(err, &exit) {
		if ws, is := exit.Sys().(syscall.WaitStatus); is && ws.Signaled() {
			return &refusal{wordKilled + unix.SignalName(ws.Signal()), ""}
		}
		return faultf("it ended with %w", err)
	}
	return err
}

// effective starts a program that waits for input, and reads its effective uid.
func effective(cmd *exec.Cmd) error {
	in, err := cmd.StdinPipe()
	if err != nil {
		return faultf("%w", err)
	}
	if err := cmd.Start(); err != nil {
		return startErrno(err)
	}
	defer cmd.Wait()
	defer in.Close()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	cmd.Process.Kill()
	if err != nil {
		return faultf("%w", err)
	}
	for l := range bytes.Lines(status) {
		if f := strings.Fields(string(l)); len(f) > 2 && f[0] == "Uid:" && f[2] == "0" {
			return nil
		}
	}
	return &refusal{wordNothing, ""}
}

// overwriteExe tries to change the program that is running. Unsandboxed a copy
// in a directory of the case stands for it.
func overwriteExe(a *agent) {
	exe := filepath.Join(a.Tools, "other") // a copy that does not run, so that no ETXTBSY comes before the wall
	if !a.Inside {
		exe = a.own("program")
		if err := copyFile(a.Exe, exe); err != nil {
			a.try("copy", func() error { return faultf("%w", err) })
			return
		}
	}
	open := func(path string, flags int) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	a.try("write", func() error { return open(exe, unix.O_WRONLY) })
	a.try("truncate", func() error {
		if err := landlockABI(3).check(); err != nil {
			return &absent{err.Error()} // as truncate_outside
		}
		if !a.Inside {
			return open(exe, unix.O_WRONLY)
		}
		return unix.Truncate(exe, 1<<40)
	})
	a.try("beside", func() error { return os.WriteFile(filepath.Join(filepath.Dir(exe), "beside"), nil, 0o600) })
	a.try("rename", func() error { return os.Rename(exe, a.work("moved")) })
	a.probe("through_proc", func() error { return open("/proc/self/exe", unix.O_WRONLY) })
	a.probe("through_supervisor", func() error { return open(fmt.Sprintf("/proc/%d/exe", a.Holder.PID), unix.O_WRONLY) })
}

func chrootNowhere(a *agent) error {
	_, err := call(unix.SYS_CHROOT, a.heap.text("/nonexistent/attack"))
	return err
}

// landlockLayers restricts itself until the kernel has no layer left, and is
// served all the same: who is looked at from outside has more layers then than
// whoever looks.
func landlockLayers(a *agent) {
	a.try("served", func() error {
		runtime.LockOSThread() // for as long as the case lives
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return faultf("no_new_privs: %w", err)
		}
		layers := 0
		for {
			fd, err := landlock.Create(landlock.Attr{FS: landlock.MakeSym})
			if err != nil {
				return faultf("ruleset: %w", err)
			}
			err = landlock.RestrictThread(fd)
			unix.Close(fd)
			if errors.Is(err, unix.E2BIG) {
				break
			}
			if err != nil || layers > 1000 {
				return faultf("layer %d: %w", layers, err)
			}
			layers++
		}
		if err := a.fetchOrigin(); err != nil {
			return err
		}
		return foundf("%d layers of its own", layers)
	})
}
