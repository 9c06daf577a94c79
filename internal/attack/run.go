package attack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine"
	"sallyport/internal/kernel/caps"
	"sallyport/internal/policy"
)

// afterlife is how long processes of a sandbox may be seen after its end. They are
// killed with it; how long that takes is a matter of how busy the host is.
const afterlife = 30 * time.Second

// runner runs the cases of a scene, unsandboxed or in a sandbox, and keeps what
// is known of each.
type runner struct {
	*scene
	sides   map[string]*side
	pending map[string]*step // the step that is being tried
	twins   map[string]string
	cases   map[string]Case
	current string
	stderr  bytes.Buffer
	ran     func(name string, inside bool) // may be nil
	mode    policy.Mode
}

func (s *scene) newRunner(cases []Case) *runner {
	r := &runner{scene: s, sides: map[string]*side{}, pending: map[string]*step{}, twins: map[string]string{}, cases: map[string]Case{}}
	for _, c := range cases {
		r.sides[c.Name], r.cases[c.Name] = &side{}, c
		s.spec.Cases = append(s.spec.Cases, c.Name)
		if c.twin != "" && s.spec.Inside {
			s.spec.Twins = addOnce(s.spec.Twins, c.twin)
		}
	}
	return r
}

// run runs all cases of the scene and returns what is known of each.
func (r *runner) run(ctx context.Context, off confine.Walls, extra ...string) map[string]side {
	path := filepath.Join(r.spec.Workdir, "spec.json")
	err := writeSpec(path, r.spec)
	if err == nil {
		err = r.give(path)
	}
	if err == nil {
		err = r.execute(ctx, path, off, extra)
	}
	out := map[string]side{}
	r.look()
	for name, s := range r.sides {
		if !s.finished && s.problem == "" {
			s.problem = "it did not end"
			if err != nil {
				s.problem = err.Error()
			}
			if said := told(r.stderr.String()); said != "" {
				s.problem += ": " + said
			}
		}
		if c := r.cases[name]; c.twin != "" && r.spec.Inside {
			why, ran := r.twins[c.twin]
			if !ran {
				why = c.twin + " did not run"
			}
			s.twin = why
		}
		out[name] = *s
	}
	return out
}

// told picks the line that matters of what a process wrote to standard error.
func told(s string) string {
	last := ""
	if os.Getenv("ATTACK_DEBUG") != "" {
		os.Stderr.WriteString(s)
	}
	for l := range strings.Lines(s) {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "panic:") || strings.HasPrefix(l, "fatal error:") {
			return l
		}
		if l != "" {
			last = l
		}
	}
	return last
}

// command is the process that runs the cases: the driver itself for a control,
// the supervisor around it for a sandbox.
func (r *runner) command(ctx context.Context, path string, off confine.Walls, extra []string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, r.spec.Exe, hidden, "drive", path)
	cmd.Dir = r.spec.Workdir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if r.spec.Inside {
		names, err := resolve()
		if err != nil {
			return nil, err
		}
		in, err := json.Marshal(sandboxSpec{Policy: r.policyText(extra...), Spec: path, Port: int(r.port), Resolve: names, Off: off, Mode: r.mode})
		if err != nil {
			return nil, err
		}
		cmd.Args = []string{r.spec.Exe, hidden, "host"}
		cmd.Stdin = bytes.NewReader(in)
	}
	if !r.spec.Inside || !caps.Reaches() { // else the supervisor gives root up itself
		cmd.SysProcAttr.Credential = r.credential()
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.spec.Workdir, "TMPDIR=" + r.spec.Workdir, keyEnv(r.spec.Inside, r.spec.Token)}
	for _, p := range poison {
		cmd.Env = append(cmd.Env, p+"="+poisonValue)
	}
	cmd.Stderr = &r.stderr
	cmd.WaitDelay = afterlife
	cmd.ExtraFiles = r.leakFiles()
	return cmd, nil
}

// leakFiles puts the leaked descriptor at its number, with nothing before it.
func (r *runner) leakFiles() []*os.File {
	f := make([]*os.File, leakFD-3+1)
	f[leakFD-3] = r.leak[1]
	return f
}

func (r *runner) execute(ctx context.Context, path string, off confine.Walls, extra []string) error {
	cmd, err := r.command(ctx, path, off, extra)
	if err != nil {
		return err
	}
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	cmd.Stdout = out
	err = cmd.Start()
	out.Close()
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.runner = cmd
	r.mu.Unlock()
	read := make(chan struct{})
	go func() {
		defer close(read)
		r.read(in)
	}()
	err = cmd.Wait()
	ended := time.Now()
	select {
	case <-read:
	case <-time.After(afterlife):
		r.blame("processes of the sandbox live on after its end")
		in.SetReadDeadline(time.Now())
		<-read
	}
	if !r.killed.IsZero() {
		r.outlived(time.Since(ended))
		return nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) || err == nil {
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("exit status %d", code)
		}
		return nil
	}
	return err
}

// outlived judges the case that has killed the supervisor: nobody is left to
// report, and that is how it has to be.
func (r *runner) outlived(after time.Duration) {
	for name, p := range r.pending {
		s := r.sides[name]
		p.State, p.Errno, p.Detail = stateRefused, wordEnded, fmt.Sprintf("everything was gone %v after the supervisor", after.Round(time.Millisecond))
		s.steps = append(s.steps, *p)
		s.ran, s.finished, s.problem = true, true, ""
		delete(r.pending, name)
	}
}

// blame charges the case that is running, or all of them.
func (r *runner) blame(what string) {
	for name, s := range r.sides {
		if name == r.current || len(r.sides) == 1 {
			s.seen = append(s.seen, what)
			return
		}
	}
	for _, s := range r.sides {
		s.seen = append(s.seen, what)
	}
}

func (r *runner) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) == nil {
			r.line(l)
		}
	}
}

// line takes one line of the driver or of a case.
func (r *runner) line(l line) {
	if l.State == lineTwin {
		r.twins[l.Step] = strings.TrimSpace(l.Errno + " " + l.Detail)
		return
	}
	s, known := r.sides[l.Case]
	if !known {
		return
	}
	switch l.State {
	case lineBegin:
		s.ran, r.current = true, l.Case
		r.windows = append(r.windows, window{l.Case, time.Now()})
	case lineTrying:
		r.pending[l.Case] = &step{Name: l.Step, Probe: l.Probe}
	case lineTell:
		r.answer(l)
	case lineEnd:
		r.ended(s, l)
	default:
		delete(r.pending, l.Case)
		s.steps = append(s.steps, step{l.Step, l.State, l.Probe, l.Errno, l.Detail})
	}
}

// ended closes a case, or the part of it that ended with its process.
func (r *runner) ended(s *side, l line) {
	p := r.pending[l.Case]
	delete(r.pending, l.Case)
	switch {
	case l.Detail != "" && p != nil:
		s.problem = fmt.Sprintf("%s in step %s", l.Detail, p.Name)
	case l.Detail != "":
		s.problem = l.Detail
	case l.Errno != "" && p != nil:
		p.State, p.Errno = stateRefused, wordKilled+l.Errno
		s.steps = append(s.steps, *p)
	case l.Errno != "":
		s.problem = "ended by " + l.Errno
	}
	s.finished = true
	s.took = time.Since(r.windows[len(r.windows)-1].start)
	if r.ran != nil {
		r.ran(l.Case, r.spec.Inside)
	}
}

// answer does outside what a case asks for, and tells it through its FIFO.
func (r *runner) answer(l line) {
	c := r.cases[l.Case]
	said := "nobody answers"
	if c.outside != nil {
		said = c.outside(r.scene, l.Detail)
	}
	if !r.alive() {
		return
	}
	path := filepath.Join(r.spec.Workdir, rendezvous(l.Case))
	for end := time.Now().Add(answerLimit); time.Now().Before(end); {
		// Without a reader this is ENXIO: a case that has died must not hold
		// everything up.
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Write(fd, []byte(said+"\n"))
			unix.Close(fd)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// alive says whether the supervisor has been left alive.
func (r *runner) alive() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.killed.IsZero()
}

// settleTime lets what is on its way on loopback arrive before the servers are
// asked.
const settleTime = 30 * time.Millisecond

// look asks the outside what it has seen, and charges the cases with it.
func (r *runner) look() {
	if !r.spec.Inside {
		return
	}
	time.Sleep(settleTime)
	for _, c := range r.rec.take() {
		r.charge(c.said, c.at, strings.TrimSpace(c.where+" was reached: "+c.said))
	}
	for _, g := range r.victim.signals() {
		r.charge("", g.at, "the victim got "+g.name)
	}
	for name, s := range r.sides {
		s.seen = append(s.seen, r.spoiled(name)...)
	}
	if t := r.typed(); t != "" {
		r.charge(t, time.Time{}, "the terminal got "+t)
	}
}

// charge finds the case that something seen belongs to: by the mark that it
// carries, else by the time.
func (r *runner) charge(said string, at time.Time, what string) {
	owner := ""
	for name := range r.sides {
		if strings.Contains(said, name+"/") {
			owner = name
		}
	}
	if owner == "" {
		for _, w := range r.windows {
			if !w.start.After(at) {
				owner = w.name
			}
		}
	}
	s, known := r.sides[owner]
	if !known {
		r.current = ""
		r.blame(what)
		return
	}
	s.seen = append(s.seen, what)
}
