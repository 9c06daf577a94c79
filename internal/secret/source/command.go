package source

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Bounds of a command.
const (
	commandTime = 30 * time.Second
	commandEnd  = 2 * time.Second // for its output to end after itself
)

// Command is what a program writes to its standard output, without the end of
// the last line, kept for ttl. argv[0] is a path. env is all of its environment;
// it starts in the root directory, reads nothing, and its standard error goes
// nowhere, because it could hold a secret. It ends with the caller's process.
func Command(argv, env []string, ttl time.Duration, now func() time.Time) *Source {
	return Func("command "+argv[0], func(ctx context.Context) ([]byte, error) { return output(ctx, argv, env) }, ttl, now)
}

func output(ctx context.Context, argv, env []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = env, "/", commandEnd
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	// The signal at the parent's death is sent when the thread that started the
	// command ends, prctl(2).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, plain(err)
	}
	b, failed := readAll(out)
	if failed != nil {
		cancel() // it may go on for ever
	}
	err = cmd.Wait()
	var status *exec.ExitError
	switch {
	case failed != nil:
		err = failed
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it did not end within %v", commandTime)
	case errors.As(err, &status):
		err = fmt.Errorf("it ended with %v; run it by hand to see why", status.ProcessState)
	}
	if err != nil {
		clear(b)
		return nil, err
	}
	return b, nil
}
