package attack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hidden is the command by which this program becomes an attack. It is not in
// the help: started by hand it attacks nothing but itself.
const hidden = "attack-payload"

// Payload runs one of the roles of the suite when args ask for one, as
// `sallyport attack-payload ...`: the agent, the supervisor around it, or the
// victim. It reports whether it did, and the exit status.
func Payload(args []string) (handled bool, exit int) {
	if len(args) < 3 || args[1] != hidden {
		return false, 0
	}
	role, rest := args[2], args[3:]
	roles := map[string]struct {
		args int
		run  func([]string) int
	}{
		"drive":  {1, func(s []string) int { return drive(s[0]) }},
		"case":   {3, func(s []string) int { return runCase(s[0], s[1], s[2]) }},
		"twin":   {2, func(s []string) int { return runTwin(s[0], s[1]) }},
		"flip":   {3, flipRole},
		"dial":   {2, dial},
		"whoami": {0, func([]string) int { return whoami() }},
		"victim": {2, func(s []string) int { return victim(s[0], s[1]) }},
		"host":   {0, func([]string) int { return host() }},
		"true":   {0, func([]string) int { return 0 }},
	}
	r, known := roles[role]
	if !known || len(rest) < r.args {
		fmt.Fprintf(os.Stderr, "sallyport: %s: no such role\n", hidden)
		return true, 2
	}
	return true, r.run(rest)
}

func flipRole(s []string) int {
	x, err1 := strconv.ParseUint(s[1], 10, 64)
	y, err2 := strconv.ParseUint(s[2], 10, 64)
	if err1 != nil || err2 != nil {
		return 2
	}
	return flipFile(s[0], x, y)
}

// whoami says whether this process has more than its user.
func whoami() int {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&hdr, &data[0])
	word := "plain"
	if unix.Geteuid() == 0 || err != nil || data[0].Permitted|data[0].Effective|data[1].Permitted != 0 {
		word = "privileged"
	}
	fmt.Printf("%s euid %d capabilities %#x\n", word, unix.Geteuid(), data[0].Permitted)
	return 0
}

// drive runs every twin and every case of a spec, each in a process of its own,
// so that what one does to itself ends with it.
func drive(path string) int {
	spec, err := readSpec(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if at, is := strings.CutPrefix(os.Getenv("HTTP_PROXY"), "http://"); is && spec.Inside {
		// In namespace mode only the supervisor knows where the proxy came to be.
		if spec.Reuse == spec.Proxy {
			spec.Reuse = at
		}
		spec.Proxy = at
		if err := writeSpec(path, spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	for _, t := range spec.Twins {
		run(spec, "twin "+t, defaultLimit, "twin", path, t)
	}
	for _, c := range Cases() {
		for _, name := range spec.Cases {
			if name == c.Name {
				driveCase(spec, path, c)
			}
		}
	}
	return 0
}

// maxDeaths is how many steps of one case may kill their process.
const maxDeaths = 8

// driveCase runs a case, and runs it on behind a step that killed it.
func driveCase(spec Spec, path string, c Case) {
	a := &agent{Spec: spec, name: c.Name, out: os.Stdout}
	a.say(line{State: lineBegin})
	for range maxDeaths {
		skip := progress(spec, c.Name)
		sig, late := run(spec, c.Name, c.patience(spec.Races), "case", path, c.Name, strconv.Itoa(skip))
		a.say(line{State: lineEnd, Errno: sig, Detail: late})
		if sig == "" || progress(spec, c.Name) == skip {
			break
		}
	}
}

// progressFile holds a byte for each step that a case has tried.
func progressFile(spec Spec, name string) string {
	return filepath.Join(spec.Workdir, "progress-"+name)
}

func progress(spec Spec, name string) int {
	st, err := os.Stat(progressFile(spec, name))
	if err != nil {
		return 0
	}
	return int(st.Size())
}

// run runs one process of the suite to its end. It returns the signal that
// ended it, and why it was ended if the driver did.
func run(spec Spec, name string, limit time.Duration, args ...string) (sig, late string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, spec.Exe, append([]string{hidden}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Dir = spec.Workdir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", fmt.Sprintf("took more than %v", limit)
	}
	if err == nil {
		return "", ""
	}
	if cmd.ProcessState == nil {
		return "", fmt.Sprintf("%s: %v", name, err)
	}
	if ws, is := cmd.ProcessState.Sys().(syscall.WaitStatus); is && ws.Signaled() {
		return unix.SignalName(ws.Signal()), ""
	}
	return "", fmt.Sprintf("%s: %v", name, err)
}

// runCase is one case, behind the first skip steps.
func runCase(path, name, skip string) int {
	spec, err := readSpec(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	n, err := strconv.Atoi(skip)
	if err != nil {
		return 2
	}
	a := &agent{Spec: spec, name: name, out: os.Stdout, skip: n}
	if a.Guard == 0 {
		a.Guard = a.guard()
	}
	if a.count, err = os.OpenFile(progressFile(spec, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	for _, c := range Cases() {
		if c.Name == name {
			c.attack(a)
			return 0
		}
	}
	return 2
}

// guard is the parent of the driver, which is this process's parent.
func (a *agent) guard() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", os.Getppid()))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 2 {
		return 0
	}
	pid, _ := strconv.Atoi(f[1])
	return pid
}

func runTwin(path, name string) int {
	spec, err := readSpec(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	a := &agent{Spec: spec, name: name, out: os.Stdout}
	l := line{State: lineTwin, Step: name}
	do, known := twins[name]
	if !known {
		l.Errno, l.Detail = "unknown", "no such twin"
	} else if err := do(a); err != nil {
		l.Errno, l.Detail = "failed", err.Error()
	}
	a.say(l)
	return 0
}
