package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sallyport/internal/testkit"
)

// TestMain lets this test binary be the sallyport that the scripts call.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sallyport": func() { os.Exit(Main(os.Args...)) },
		"without":   func() { os.Exit(without(os.Args[1], os.Args[2:])) },
	})
}

// TestScript runs testdata/*.txtar, which read as the manual of each command.
// Root runs them in a network namespace of the test, because root's sandboxes
// make interfaces.
func TestScript(t *testing.T) { inNetwork(t, "testdata") }

// TestScriptAlone runs scripts that look at everything in their network namespace,
// where the sandboxes of others would come and go.
func TestScriptAlone(t *testing.T) { inNetwork(t, "testdata/alone") }

func inNetwork(t *testing.T, dir string) {
	if os.Geteuid() == 0 {
		testkit.Netns(t, func(t *testing.T) { scripts(t, dir) })
	} else {
		scripts(t, dir)
	}
}

// scripts runs each script of dir in a directory that everybody can reach, because
// root's agent is not root.
func scripts(t *testing.T, dir string) {
	root, err := testkit.PublicDir(t)
	if err != nil {
		t.Fatal(err)
	}
	// Control sockets lie where no agent of these scripts can write.
	control, err := os.MkdirTemp("/dev/shm", "sallyport-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(control) })
	if err := os.Chmod(control, 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		WorkdirRoot:         root,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir+"/home")
			e.Setenv("XDG_STATE_HOME", "")
			e.Setenv("XDG_RUNTIME_DIR", filepath.Join(control, filepath.Base(e.WorkDir)))
			if err := os.Mkdir(e.Getenv("XDG_RUNTIME_DIR"), 0o755); err != nil {
				return err
			}
			return os.Chmod(e.WorkDir, 0o777)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": statusCmd, "mode": modeCmd, "await": awaitCmd},
	})
}

// statusCmd is "status N PROGRAM ARG...": the program must exit with N. Its
// output is there for stdout and stderr.
func statusCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("status %d, want %d", got, want)
	}
}

// modeCmd is "mode OCTAL FILE": the file must have these permissions.
func modeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
		ts.Fatalf("mode of %s is %s, want %s", args[1], got, args[0])
	}
}

// awaitCmd is "await FILE": the file will be there soon.
func awaitCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await FILE")
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s did not appear", args[0])
		}
	}
}
