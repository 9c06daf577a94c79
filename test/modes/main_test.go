// Package modes shows that every policy means the same in every mode: attacks
// and allowed workloads, in Platform mode, in Namespace mode and in a user
// namespace, started by root and by a user without privilege. The tables of
// docs/modes.md are made here.
package modes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/internal/attack"
	"sallyport/internal/confine"
	"sallyport/internal/kernel/seccomp"
	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
	"sallyport/internal/testkit"
)

// The test binary is four programs: the tests, a supervisor, what it starts,
// and the attack suite.
const supervisorVar, suiteVar = "MODES_SUPERVISOR", "MODES_SUITE"

func TestMain(m *testing.M) {
	if handled, status := attack.Payload(os.Args); handled {
		os.Exit(status)
	}
	if raw := os.Getenv(supervisorVar); raw != "" {
		os.Exit(beSupervisor(raw))
	}
	if mode := os.Getenv(suiteVar); mode != "" {
		os.Exit(beSuite(mode))
	}
	if len(os.Args) > 2 && os.Args[1] == "probe" {
		os.Exit(probe(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// sandbox is one supervisor as a test wants it.
type sandbox struct {
	Mode    policy.Mode
	Policy  string
	Workdir string
	Command []string
	Resolve map[string][]netip.Addr
	Off     confine.Walls
	Lacks   string // what the host of this supervisor lacks, a key of lacking
	Events  string
	Notes   bool // says what a person should know
}

// lacking are hosts that refuse something, as a container's seccomp profile or a
// kernel without it would.
var lacking = map[string]seccomp.Rule{
	"unshare":  {Name: "test", Calls: []string{"unshare"}, Do: seccomp.Errno(unix.EPERM), Why: "a container's default profile"},
	"setns":    {Name: "test", Calls: []string{"setns"}, Do: seccomp.Errno(unix.EPERM), Why: "a container's default profile"},
	"nftables": {Name: "test", Calls: []string{"socket"}, When: []seccomp.Cond{seccomp.Int(0).Is(unix.AF_NETLINK), seccomp.Int(2).Is(unix.NETLINK_NETFILTER)}, Do: seccomp.Errno(unix.EPROTONOSUPPORT), Why: "a kernel without netfilter"},
}

func beSupervisor(raw string) int {
	var s sandbox
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		panic(err)
	}
	os.Unsetenv(supervisorVar)
	if err := lack(s.Lacks); err != nil {
		panic(err)
	}
	o := supervisor.Options{
		Command: s.Command, Workdir: s.Workdir, Base: os.Environ(), Mode: s.Mode, Resolve: s.Resolve, Off: s.Off, Events: s.Events,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: "test",
	}
	if s.Notes {
		o.Note = func(text string) { fmt.Fprintln(os.Stderr, "note:", text) }
	}
	if s.Policy != "" {
		p, _, err := policy.Parse("test.yaml", []byte(s.Policy))
		if err != nil {
			panic(err)
		}
		o.Policy = p
	}
	status, err := supervisor.Run(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		var e *supervisor.ExitError
		if errors.As(err, &e) && e.Hint() != "" {
			fmt.Fprintln(os.Stderr, "hint:", e.Hint())
		}
	}
	return status
}

// lack takes something away from every thread of this process.
func lack(what string) error {
	if what == "" {
		return nil
	}
	p, err := seccomp.Compile(seccomp.Native, []seccomp.Rule{lacking[what]}, seccomp.Allow)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, err = seccomp.Load(seccomp.Filter(p), unix.SECCOMP_FILTER_FLAG_TSYNC)
	return err
}

// who starts a supervisor.
type who struct {
	name string
	as   *syscall.Credential
}

var (
	root   = who{"root", nil}
	nobody = who{"uid 65534", &syscall.Credential{Uid: testkit.NobodyID, Gid: testkit.NobodyID}}
	daemon = who{"daemon", &syscall.Credential{Uid: 1, Gid: 1}}    // has a name, and is not who unmapped owners look like
	lent   = who{"uid 65534 with the two capabilities", nobody.as} // they are ambient
)

// bench is what the tests of one network namespace share.
type bench struct {
	exe string // this program, where everybody can run it
	dir string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := testkit.PublicDir(t)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if exe, err = testkit.CopyExecutable(dir, exe); err != nil {
		t.Fatal(err)
	}
	return &bench{exe, dir}
}

// workdir is a directory that the agent can use, whoever it is.
func (b *bench) workdir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp(b.dir, "work-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d, 0o777); err != nil {
		t.Fatal(err)
	}
	return d
}

// command prepares a supervisor; its standard output and error are the caller's
// to set.
func (b *bench) command(t *testing.T, by who, s sandbox) *exec.Cmd {
	t.Helper()
	if s.Workdir == "" {
		s.Workdir = b.workdir(t)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(b.exe)
	c.Env = append(os.Environ(), supervisorVar+"="+string(raw))
	c.SysProcAttr = &syscall.SysProcAttr{Credential: by.as, Pdeathsig: syscall.SIGKILL}
	if by == lent {
		c.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN}
	}
	c.Dir = "/"
	return c
}

// try runs a sandbox to its end.
func (b *bench) try(t *testing.T, by who, s sandbox) (out string, status int) {
	t.Helper()
	var text bytes.Buffer
	c := b.command(t, by, s)
	c.Stdout, c.Stderr = &text, &text
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return text.String(), c.ProcessState.ExitCode()
}
