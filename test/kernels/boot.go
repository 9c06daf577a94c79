package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// guestFiles builds the first file system of a virtual machine: the program, the
// guest, a shell and a user database. It returns the path of the archive in dir.
func guestFiles(dir, arch, shell string) (string, error) {
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "run", "usr"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	for _, b := range []struct{ pkg, to string }{{"./cmd/sallyport", "bin/sallyport"}, {"./test/kernels/guest", "init"}} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(root, b.to), b.pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build %s: %w: %s", b.pkg, err, out)
		}
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
		"group":  "root:x:0:\nnogroup:x:65534:\n",
		"hosts":  "127.0.0.1 localhost\n::1 localhost\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	if err := addShell(filepath.Join(root, "bin"), shell); err != nil {
		return "", err
	}
	return pack(root, filepath.Join(dir, "initrd"))
}

// addShell gives the guest the few programs that cases of the suite execute.
func addShell(bin, shell string) error {
	busybox, err := os.ReadFile(shell)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), busybox, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"sh", "true", "cat"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	return nil
}

// pack writes the tree as the kernel wants it, newc of cpio(5).
func pack(root, to string) (string, error) {
	var names bytes.Buffer
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if rel, e := filepath.Rel(root, path); e == nil {
			names.WriteString(rel + "\n")
		}
		return err
	})
	if err != nil {
		return "", err
	}
	out, err := os.Create(to)
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd := exec.Command("cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet")
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = root, &names, out, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cpio: %w", err)
	}
	return to, out.Close()
}

// machine is how qemu emulates one that has two serial ports.
type machine struct {
	qemu    string
	args    []string // with CONSOLE and PORT for the files that the ports write to
	console string   // the first port, as the kernel names it
}

var machines = map[string]machine{
	"amd64": {"qemu-system-x86_64", []string{"-machine", "q35,accel=tcg", "-cpu", "max", "-serial", "file:CONSOLE", "-serial", "file:PORT"}, "ttyS0"},
	"arm64": {"qemu-system-aarch64", []string{"-machine", "virt,accel=tcg", "-cpu", "max,pauth-impdef=on", "-serial", "file:CONSOLE",
		"-chardev", "file,id=port,path=PORT", "-device", "pci-serial,chardev=port"}, "ttyAMA0"},
}

// boot runs a kernel until it turns itself off and returns what the guest said.
func boot(ctx context.Context, arch, image, initrd, param string) (said, error) {
	port, err := os.CreateTemp("", "sallyport-kernels-port-")
	if err != nil {
		return said{}, err
	}
	defer os.Remove(port.Name())
	defer port.Close()
	console, err := os.CreateTemp("", "sallyport-kernels-console-")
	if err != nil {
		return said{}, err
	}
	defer os.Remove(console.Name())
	defer console.Close()
	m, names := machines[arch], strings.NewReplacer("CONSOLE", console.Name(), "PORT", port.Name())
	args := []string{"-smp", "2", "-m", "4096", "-nodefaults", "-display", "none", "-nic", "none", "-no-reboot",
		"-kernel", image, "-initrd", initrd, "-append", "console=" + m.console + " quiet panic=-1 rdinit=/init " + param}
	for _, a := range m.args {
		args = append(args, names.Replace(a))
	}
	cmd := exec.CommandContext(ctx, m.qemu, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return said{}, fmt.Errorf("qemu: %w: %s%s", err, bytes.TrimSpace(errs.Bytes()), tail(console))
	}
	s, err := read(port)
	if err != nil {
		err = fmt.Errorf("%w%s", err, tail(console))
	}
	return s, err
}

// tail gives the last lines of the console, each on a line of its own.
func tail(f *os.File) string {
	b, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "\n    " + strings.Join(lines[max(0, len(lines)-12):], "\n    ")
}
