package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Options say what to start and what to run beside it.
type Options struct {
	Cache   Cache
	Runtime string
	Images  []string // OCI archives to load; their names are in their annotations
	Command []string // runs in the cluster's namespaces when the node is ready; SALLYPORT_BED is the run's directory
	Env     []string // NAME=VALUE, added for Command
	Keep    bool     // leave the run's directory, for its logs
	Log     io.Writer
}

// spec is what the namespace's first process reads.
type spec struct {
	Dirs       Dirs
	Cache      Cache
	Runtime    string
	Images     []string
	Command    []string
	Env        []string
	CgroupRoot string
}

// initVariable names the spec's file to the namespace's first process.
const initVariable = "SALLYPORT_BED_INIT"

// Run starts a cluster, runs the command in it and removes the cluster. It
// returns the command's exit status; an error means that the cluster itself
// failed, and ends with the last lines of the logs that tell why. The program
// that calls it must call Enter first thing in its main.
func Run(ctx context.Context, o Options) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("bed: a node needs root")
	}
	rt, err := o.Cache.Runtime(o.Runtime)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "sallyport-bed-")
	if err != nil {
		return 0, fmt.Errorf("bed: %w", err)
	}
	// the root of a pod with a user namespace passes through; what is inside is
	// root's own
	if err := os.Chmod(dir, 0o711); err != nil {
		return 0, fmt.Errorf("bed: %w", err)
	}
	s := spec{Dirs: Dirs(dir), Cache: o.Cache, Runtime: o.Runtime, Images: o.Images, Command: o.Command, Env: o.Env}
	undo, err := prepareHost(&s)
	if err != nil {
		return 0, errors.Join(err, os.RemoveAll(dir))
	}
	status, err := start(ctx, s, rt, o)
	err = errors.Join(err, undo())
	if !o.Keep {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return status, err
}

func start(ctx context.Context, s spec, rt Runtime, o Options) (int, error) {
	if err := s.Dirs.make(); err != nil {
		return 0, err
	}
	if err := errors.Join(writePKI(s.Dirs, time.Now()), writeConfigs(s.Dirs, rt, s.CgroupRoot)); err != nil {
		return 0, err
	}
	pauseTar, err := pause(ctx, s.Dirs)
	if err != nil {
		return 0, err
	}
	s.Images = append([]string{pauseTar}, s.Images...)
	raw, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(s.Dirs.path("spec.json"), raw, 0o600); err != nil {
		return 0, fmt.Errorf("bed: %w", err)
	}
	// the parent-death signal belongs to the thread that makes the child
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{"bed-init"}
	cmd.Env = append(os.Environ(), initVariable+"="+s.Dirs.path("spec.json"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, o.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("bed: %w", context.Cause(ctx))
	case errors.As(err, &exit) && exit.ExitCode() == statusBroken:
		return 0, errors.New("bed: the cluster did not start or did not stay; see the lines above")
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	}
	return 0, err
}
