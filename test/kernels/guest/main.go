// Command guest is the first process of the virtual machine that test/kernels
// boots: it runs the attack suite, writes what it says to the second serial
// port as JSON lines, and turns the machine off.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const nobody = 65534

// ports are the second serial port of each machine.
var ports = map[string]string{"amd64": "/dev/ttyS1", "arm64": "/dev/ttyS0"}

// line is what the host reads.
type line struct {
	What   string          `json:"what"`
	UID    int             `json:"uid"`
	Status int             `json:"status"`
	Out    json.RawMessage `json:"out,omitempty"`
	Err    string          `json:"err,omitempty"`
}

func main() {
	err := live()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func live() error {
	for _, m := range []struct {
		kind, at string
		mode     os.FileMode
	}{
		{"proc", "/proc", 0o555}, {"sysfs", "/sys", 0o555}, {"devtmpfs", "/dev", 0o755}, {"devpts", "/dev/pts", 0o755},
		{"tmpfs", "/dev/shm", 0o1777}, {"tmpfs", "/tmp", 0o1777}, {"tmpfs", "/var/tmp", 0o1777},
	} {
		if err := os.MkdirAll(m.at, m.mode); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
		if m.kind == "tmpfs" {
			if err := os.Chmod(m.at, 0o1777); err != nil {
				return err
			}
		}
	}
	// A case of the suite starts ten thousand processes.
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 60000, Max: 60000}); err != nil {
		return fmt.Errorf("limit of processes: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	port, err := os.OpenFile(ports[runtime.GOARCH], os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	if err := raw(port); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	suite := []string{"attack", "--mode", "platform", "--json"}
	for f := range strings.FieldsSeq(string(cmdline)) {
		if flag, ok := strings.CutPrefix(f, "attack."); ok {
			suite = append(suite, "--"+flag)
		}
	}
	out := json.NewEncoder(port)
	if err := tryModes(out); err != nil {
		return err
	}
	if strings.Contains(string(cmdline), "tries.only") {
		if err := out.Encode(sallyport(0, []string{"doctor", "--json"})); err != nil {
			return err
		}
		return out.Encode(line{What: "end"})
	}
	for _, uid := range []int{0, nobody} {
		for _, args := range [][]string{
			{"doctor", "--json"},
			{"run", "--mode", "platform", "--workdir", "/tmp", "--", "/bin/sallyport", "version"},
			suite,
		} {
			l := sallyport(uid, args)
			if err := out.Encode(l); err != nil {
				return err
			}
		}
	}
	return out.Encode(line{What: "end"})
}

// raw keeps the terminal layer from changing what is written.
func raw(f *os.File) error {
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON
	return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

func sallyport(uid int, args []string) line {
	fmt.Println("guest: uid", uid, strings.Join(args, " "))
	cmd := exec.Command("/bin/sallyport", args...)
	cmd.Dir = "/tmp"
	cmd.Env = []string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if args[0] == "attack" {
		cmd.Stderr = os.Stderr // the console, which shows how far it is
	}
	err := cmd.Run()
	l := line{What: args[0], UID: uid, Status: cmd.ProcessState.ExitCode(), Err: errs.String()}
	if cmd.ProcessState == nil {
		l.Status, l.Err = -1, err.Error()
	}
	if b := bytes.TrimSpace(out.Bytes()); json.Valid(b) && len(b) > 0 {
		var flat bytes.Buffer
		json.Compact(&flat, b)
		l.Out = flat.Bytes()
	}
	return l
}
