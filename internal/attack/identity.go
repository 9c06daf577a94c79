package attack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func asError[T error](err error, target *T) bool { return errors.As(err, target) }

// spoken turns the word of a dial process into the error of an attempt.
func spoken(out []byte, err error) error {
	word, detail, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	switch {
	case word == "ok":
		return nil
	case word != "":
		return &refusal{word, detail}
	case err != nil:
		return startErrno(err)
	}
	return faultf("the dialling process said nothing")
}

// dialAs runs this program's dial command as the file at path, with argv[0] as
// given, and asks for a destination through the proxy.
func (a *agent) dialAs(path, argv0, to string) error {
	cmd := exec.Command(path)
	cmd.Args = []string{argv0, hidden, "dial", a.Proxy, to}
	return spoken(cmd.Output())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// memfdProgram runs a copy of this program from a file that has no name, or
// rather from one that is called like a program that may do more.
func memfdProgram(a *agent) {
	for name, called := range map[string]string{"plain": "other", "like_path": filepath.Join(a.Tools, "other")} {
		a.try(name, func() error {
			fd, err := unix.MemfdCreate(called, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			in, err := os.Open(a.Exe)
			if err != nil {
				return faultf("%w", err)
			}
			defer in.Close()
			path := fmt.Sprintf("/proc/self/fd/%d", fd)
			out, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			if _, err := io.Copy(out, in); err != nil {
				out.Close()
				return faultf("%w", err)
			}
			out.Close() // a file that is open for writing is not executed
			return a.dialAs(path, filepath.Join(a.Tools, "other"), a.ToolAt)
		})
	}
	a.try("execveat", func() error { return a.execveat() })
}

// execveat runs the program by its descriptor, with an empty path.
func (a *agent) execveat() error {
	fd, err := unix.MemfdCreate("sallyport", 0)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(a.Exe)
	if err != nil {
		return faultf("%w", err)
	}
	if _, err := unix.Write(fd, program); err != nil {
		return faultf("%w", err)
	}
	ro, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY, 0)
	unix.Close(fd)
	if err != nil {
		return err
	}
	defer unix.Close(ro)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return faultf("%w", err)
	}
	var argv []byte
	for _, s := range []string{a.Exe, hidden, "dial", a.Proxy, a.ToolAt} {
		argv = append(argv, number64(a.heap.text(s))...)
	}
	argv = append(argv, number64(0)...)
	r, err := a.inClone(0,
		[]uintptr{unix.SYS_DUP3, uintptr(pipe[1]), 1, 0},
		[]uintptr{unix.SYS_EXECVEAT, uintptr(ro), a.heap.text(""), a.heap.put(argv), a.heap.put(number64(0)), unix.AT_EMPTY_PATH})
	unix.Close(pipe[1])
	defer unix.Close(pipe[0])
	if err != nil {
		return err
	}
	if r[1] != notMade {
		return result(r[1])
	}
	b := make([]byte, 256)
	n, _ := unix.Read(pipe[0], b)
	return spoken(b[:max(n, 0)], nil)
}

// deletedProgram runs an allowed program whose file is gone, or another one,
// before it asks.
func deletedProgram(a *agent) {
	p := filepath.Join(a.Workdir, deletedTool)
	for name, then := range map[string]func(){
		"deleted":  func() { os.Remove(p) },
		"replaced": func() { os.Remove(p); os.Symlink(filepath.Join(a.Tools, "other"), p) },
		"moved":    func() { os.Rename(p, a.work("moved")) },
	} {
		a.try(name, func() error {
			os.Remove(p)
			if err := copyFile(a.Exe, p); err != nil {
				return faultf("%w", err)
			}
			return a.dialAfter(p, then)
		})
	}
	a.try("named_deleted", func() error {
		// The kernel adds this to the name of a file that is gone.
		odd := p + " (deleted)"
		if err := copyFile(a.Exe, odd); err != nil {
			return faultf("%w", err)
		}
		return a.dialAs(odd, p, a.ToolAt)
	})
}

// dialAfter starts a dialling process, does something, and lets it dial.
func (a *agent) dialAfter(path string, then func()) error {
	cmd := exec.Command(path, hidden, "dial", "-wait", a.Proxy, a.ToolAt)
	in, err := cmd.StdinPipe()
	if err != nil {
		return faultf("%w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return faultf("%w", err)
	}
	if err := cmd.Start(); err != nil {
		return startErrno(err)
	}
	then()
	in.Close()
	said, _ := io.ReadAll(out)
	return spoken(said, cmd.Wait())
}

// spoofedName asks for what only the program `other` may have.
func spoofedName(a *agent) {
	other := filepath.Join(a.Tools, "other")
	a.try("argv", func() error { return a.dialAs(a.Exe, other, a.ToolAt) })
	a.try("comm", func() error {
		if err := unix.Prctl(unix.PR_SET_NAME, uintptr(a.heap.text("other")), 0, 0, 0); err != nil {
			return faultf("%w", err)
		}
		return a.dialAs(a.Exe, "other", a.ToolAt)
	})
	a.try("symlink", func() error {
		l := a.work("other")
		os.Remove(l)
		if err := os.Symlink(a.Exe, l); err != nil {
			return faultf("%w", err)
		}
		return a.dialAs(l, l, a.ToolAt)
	})
	a.try("copy", func() error {
		l := a.work("copy-of-other")
		if err := copyFile(other, l); err != nil {
			return faultf("%w", err)
		}
		return a.dialAs(l, other, a.ToolAt)
	})
}

// replacedProgram uses the program that the policy allows, as a user would,
// then puts another in its place.
func replacedProgram(a *agent) {
	tool := filepath.Join(a.Workdir, replacedTool)
	if err := copyFile(a.Exe, tool); err != nil {
		a.try("copy", func() error { return faultf("%w", err) })
		return
	}
	if err := a.dialAs(tool, tool, a.ToolAt); err != nil {
		a.try("first_use", func() error { return faultf("the allowed program was refused: %w", err) })
		return
	}
	a.try("rewritten", func() error {
		f, err := os.OpenFile(tool, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return faultf("%w", err)
		}
		f.WriteString("changed")
		f.Close()
		return a.dialAs(tool, tool, a.ToolAt)
	})
	a.try("renamed_over", func() error {
		other := a.work("evil")
		if err := copyFile(a.Exe, other); err != nil {
			return faultf("%w", err)
		}
		os.WriteFile(other+".mark", nil, 0o600)
		f, err := os.OpenFile(other, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return faultf("%w", err)
		}
		f.WriteString("another")
		f.Close()
		if err := os.Rename(other, tool); err != nil {
			return faultf("%w", err)
		}
		return a.dialAs(tool, tool, a.ToolAt)
	})
}

// handedOver connects as this program, which may not reach the destination,
// and leaves the talking to the one that may.
func handedOver(a *agent) {
	a.try("inherited", func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return faultf("socket: %w", err)
		}
		if err := a.connect(fd, sockaddr(parse(a.Proxy))); err != nil {
			unix.Close(fd)
			return faultf("connecting to the proxy: %w", err)
		}
		f := os.NewFile(uintptr(fd), "proxy")
		defer f.Close()
		cmd := exec.Command(filepath.Join(a.Tools, "other"), hidden, "dial", "-fd", a.Proxy, a.ToolAt)
		cmd.ExtraFiles = []*os.File{f}
		return spoken(cmd.Output())
	})
}
