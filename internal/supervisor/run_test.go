package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/policy"
)

// Run changes its process for good, so every test starts the test binary again
// to be the supervisor: as the user who runs the tests, and, when that is root,
// as uid 65534 too.
func TestMain(m *testing.M) {
	if spec := os.Getenv("SUPERVISOR_TEST"); spec != "" {
		os.Exit(beSupervisor(spec))
	}
	os.Exit(m.Run())
}

// spec is what a test hands to the supervisor that it starts.
type spec struct {
	Policy  string
	Workdir string
	Command []string

	PolicyFile string // in the place of Policy, and followed
	Control    string
	Events     string
	UpstreamCA string

	Resolve map[string][]netip.Addr
	Count   bool // answer at descriptor 3 what the supervisor holds
}

func beSupervisor(raw string) int {
	var s spec
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		panic(err)
	}
	os.Unsetenv("SUPERVISOR_TEST")
	o := Options{
		Mode:    policy.Platform, // the other modes are test/modes'
		Command: s.Command, Workdir: s.Workdir, UpstreamCA: s.UpstreamCA, Events: s.Events, Resolve: s.Resolve, Base: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Note: func(n string) { fmt.Fprintln(os.Stderr, "note:", n) },
	}
	if s.PolicyFile != "" {
		document, err := os.ReadFile(s.PolicyFile)
		if err != nil {
			panic(err)
		}
		s.Policy = string(document)
		o.PolicyFile, o.Document, o.Control = s.PolicyFile, document, s.Control
	}
	if s.Policy != "" {
		p, _, err := policy.Parse("test.yaml", []byte(s.Policy))
		if err != nil {
			panic(err)
		}
		o.Policy = p
	}
	box := newSandbox(o)
	if s.Count {
		go box.answerCounts()
	}
	status, err := box.run(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
	}
	return status
}

// users are who a test runs as: the caller, and nobody if the caller is root.
func users(t *testing.T, f func(t *testing.T, as *syscall.Credential)) {
	t.Run("caller", func(t *testing.T) { f(t, nil) })
	if os.Getuid() == 0 {
		t.Run("nobody", func(t *testing.T) { f(t, &syscall.Credential{Uid: 65534, Gid: 65534}) })
	}
}

// workdir is a directory that the agent can use, whoever it is.
func workdir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("/tmp", "sallyport-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	if err := os.Chmod(d, 0o777); err != nil {
		t.Fatal(err)
	}
	return d
}

// command prepares a supervisor; start it to watch it, or use try.
func command(t *testing.T, as *syscall.Credential, s spec) *exec.Cmd {
	t.Helper()
	if s.Workdir == "" {
		s.Workdir = workdir(t)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(s.Workdir, "supervisor.test")
	if err := copySelf(self); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), "SUPERVISOR_TEST="+string(raw))
	c.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	c.Dir = "/"
	return c
}

// copySelf puts the test binary where any user may execute it.
func copySelf(to string) error {
	from, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

func try(t *testing.T, as *syscall.Credential, s spec) (out string, status int) {
	t.Helper()
	var b bytes.Buffer
	c := command(t, as, s)
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return b.String(), c.ProcessState.ExitCode()
}

func TestRunStatus(t *testing.T) {
	users(t, func(t *testing.T, as *syscall.Credential) {
		for _, tt := range []struct {
			command []string
			want    int
		}{
			{[]string{"sh", "-c", "exit 0"}, 0},
			{[]string{"sh", "-c", "exit 7"}, 7},
			{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
			{[]string{"no-such-command-here"}, ExitNotFound},
			{[]string{"/etc/passwd"}, ExitCannotExec},
			{[]string{"/usr"}, ExitCannotExec},
		} {
			if out, got := try(t, as, spec{Command: tt.command}); got != tt.want {
				t.Errorf("%q: status = %d, want %d\n%s", tt.command, got, tt.want, out)
			}
		}
	})
}

func TestFilesAreHeld(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o644); err != nil {
		t.Fatal(err)
	}
	users(t, func(t *testing.T, as *syscall.Credential) {
		const p = "version: 1\nfilesystem_policy: {include_workdir: true, read_only: [/usr, /bin, /lib, /lib64, /etc]}\n"
		out, _ := try(t, as, spec{Policy: p, Command: []string{"sh", "-c",
			"cat " + secret + "; echo x > /tmp/outside-the-grants; echo ok > here && cat here; cat /etc/hostname >/dev/null; ls /root"}})
		if strings.Count(out, "ermission denied") != 4 || !strings.Contains(out, "ok\n") || strings.Contains(out, "s3cret") {
			t.Errorf("output = %q", out)
		}
	})
}

// subvolumes makes a subvolume in the working directory, a file in it, and a copy of
// it in a directory that may only be read. It prints what that directory holds.
const subvolumes = `
import fcntl, os, struct
def ask(request, directory, source, name):
    d = os.open(directory, os.O_RDONLY)
    try: fcntl.ioctl(d, request, bytearray(struct.pack("q4088s", source, name)))
    except OSError as e: print(e)
ask(0x5000940e, "work", 0, b"mine") # BTRFS_IOC_SUBVOL_CREATE
os.makedirs("work/mine", exist_ok=True); open("work/mine/file", "w").write("planted")
ask(0x50009401, "home", os.open("work/mine", os.O_RDONLY), b"copy") # BTRFS_IOC_SNAP_CREATE
ask(0x5000940e, "home", 0, b"new")
print("home holds", sorted(os.listdir("home")))
`

// TestNoSubvolumes: on btrfs a directory that is open for reading is enough to put
// files into it, past Landlock. Sharing extents of a file that may be written goes on.
func TestNoSubvolumes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a file system")
	}
	for _, program := range []string{"mkfs.btrfs", "python3", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	dir := workdir(t)
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "fs")
	if err := errors.Join(os.Mkdir(mount, 0o755), os.WriteFile(image, nil, 0o600), os.Truncate(image, 120<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.btrfs", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.btrfs: %v\n%s", err, out)
	}
	// The mount is in a namespace that ends with the command.
	run := func(c *exec.Cmd) string {
		t.Helper()
		const script = `mount -o loop "$1" "$2" || exit 77; cd "$2" && mkdir -p home work && chown 65534:65534 home work . && shift 2 && exec "$@"`
		in := exec.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh", image, mount}, c.Args...)...)
		in.Env = append(c.Environ(), "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
		out, err := in.CombinedOutput()
		if in.ProcessState.ExitCode() == 77 {
			t.Skipf("needs btrfs and loop devices: %s", out)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	const p = "version: 1\nfilesystem_policy: {include_workdir: false, read_only: [/usr, /bin, /lib, /lib64, /etc, %s], read_write: [%s/work]}\n"
	script := subvolumes + "os.system('cp --reflink=always work/mine/file work/shared && echo extents are shared')"
	c := command(t, nil, spec{Workdir: dir, Command: []string{"python3", "-c", "import os; os.chdir('fs')\n" + script}, Policy: fmt.Sprintf(p, mount, mount)})
	out := run(c)
	if !strings.Contains(out, "home holds []") || strings.Count(out, "Inappropriate ioctl") != 3 || !strings.Contains(out, "extents are shared") {
		t.Errorf("inside:\n%s", out)
	}
	control := exec.Command("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "python3", "-c", "import shutil; shutil.rmtree('work/mine', True)"+script)
	if out := run(control); !strings.Contains(out, "home holds ['copy', 'new']") {
		t.Errorf("the attack does not work outside of a sandbox:\n%s", out)
	}
}

// inside lists the processes whose working directory is dir.
func inside(t *testing.T, dir string) []string {
	t.Helper()
	cwds, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range cwds {
		if at, err := os.Readlink(c); err == nil && at == dir {
			out = append(out, c)
		}
	}
	return out
}

// When the supervisor is killed, what it held is gone, whatever sessions and
// process groups it made, and whatever signals it ignores.
func TestKilledSupervisorTakesTheTreeAlong(t *testing.T) {
	users(t, func(t *testing.T, as *syscall.Credential) {
		dir := workdir(t)
		c := command(t, as, spec{Workdir: dir, Command: []string{"sh", "-c",
			`trap '' HUP TERM INT; setsid sh -c 'trap "" HUP TERM; sleep 1000' & setsid sh -c 'while :; do sleep 0.01; done' & (sleep 1000 &) ; echo started; wait`}})
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "started\n" {
			t.Fatalf("agent said %q, %v", line, err)
		}
		if len(inside(t, dir)) < 3 {
			t.Fatalf("control: processes inside = %v, want several", inside(t, dir))
		}
		killed := time.Now()
		c.Process.Kill()
		c.Wait()
		for len(inside(t, dir)) > 0 {
			if time.Since(killed) > aWhile {
				t.Fatalf("alive %v later: %v", aWhile, inside(t, dir))
			}
			time.Sleep(time.Millisecond)
		}
		t.Logf("all gone %v after the kill", time.Since(killed))
	})
}

// Signals that the supervisor gets reach the agent, whose answer is the exit
// status.
func TestSignalsReachTheAgent(t *testing.T) {
	users(t, func(t *testing.T, as *syscall.Credential) {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
			c := command(t, as, spec{Command: []string{"sh", "-c", "trap 'exit 42' TERM INT HUP USR1; echo started; while :; do sleep 0.01; done"}})
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			bufio.NewReader(out).ReadString('\n')
			c.Process.Signal(sig)
			c.Wait()
			if got := c.ProcessState.ExitCode(); got != 42 {
				t.Errorf("%v: status = %d, want 42", sig, got)
			}
		}
	})
}
