package attack

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The files that the suite puts into the directory of each case.
const (
	fileSecret  = "secret"  // holds the token of the run
	fileVictim  = "victim"  // a file to spoil
	fileDir     = "dir"     // an empty directory
	fileProgram = "program" // a script
)

// readSecret succeeds when the token of the run comes out of the file.
func (a *agent) readSecret(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Contains(b, []byte(a.Token)) {
		return &refusal{wordNothing, ""}
	}
	return nil
}

func (a *agent) readFD(fd int, err error) error {
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil {
		return err
	}
	if !bytes.Contains(b[:n], []byte(a.Token)) {
		return &refusal{wordNothing, ""}
	}
	return nil
}

func readOutside(a *agent) {
	secret := a.own(fileSecret)
	read := func(name string, open func() (int, error)) {
		a.try(name, func() error { return a.readFD(open()) })
	}
	read("open", func() (int, error) { return unix.Open(secret, unix.O_RDONLY, 0) })
	read("read_write", func() (int, error) { return unix.Open(secret, unix.O_RDWR, 0) })
	read("openat2", func() (int, error) { return unix.Openat2(unix.AT_FDCWD, secret, &unix.OpenHow{}) })
	read("path_then_reopen", func() (int, error) {
		fd, err := unix.Open(secret, unix.O_PATH, 0)
		if err != nil {
			return -1, err
		}
		defer unix.Close(fd)
		return unix.Open(procFD(fd), unix.O_RDONLY, 0)
	})
	read("directory_descriptor", func() (int, error) {
		fd, err := unix.Open(a.own(), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return -1, err
		}
		defer unix.Close(fd)
		return unix.Openat(fd, fileSecret, unix.O_RDONLY, 0)
	})
	read("symlink", func() (int, error) {
		os.Symlink(secret, a.work("link"))
		return unix.Open(a.work("link"), unix.O_RDONLY, 0)
	})
	read("symlinked_directory", func() (int, error) {
		os.Symlink(a.own(), a.work("dirlink"))
		return unix.Open(a.work("dirlink", fileSecret), unix.O_RDONLY, 0)
	})
	up, _ := filepath.Rel(a.work(), secret)
	read("dot_dot", func() (int, error) { return unix.Open(a.work()+"/"+up, unix.O_RDONLY, 0) })
	for name, prefix := range map[string]string{"proc_root": "/proc/self/root", "thread_root": "/proc/thread-self/root", "proc_cwd": "/proc/self/cwd/../../../../../../../../.."} {
		read(name, func() (int, error) { return unix.Open(prefix+secret, unix.O_RDONLY, 0) })
	}
	read("working_directory", func() (int, error) {
		if err := unix.Chdir(a.own()); err != nil {
			return -1, err
		}
		return unix.Open(fileSecret, unix.O_RDONLY, 0)
	})
	read("fchdir", func() (int, error) {
		fd, err := unix.Open(a.own(), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return -1, err
		}
		defer unix.Close(fd)
		if err := unix.Fchdir(fd); err != nil {
			return -1, err
		}
		return unix.Open(fileSecret, unix.O_RDONLY, 0)
	})
	a.try("list", func() error { _, err := os.ReadDir(a.own()); return err })
}

func procFD(fd int) string { return "/proc/self/fd/" + itoa(fd) }

func writeOutside(a *agent) {
	open := func(name, file string, flags int) {
		a.try(name, func() error {
			fd, err := unix.Open(a.own(file), flags, 0o600)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if flags&unix.O_ACCMODE == unix.O_RDONLY {
				return nil
			}
			_, err = unix.Write(fd, []byte("spoiled"))
			return err
		})
	}
	open("write", fileVictim, unix.O_WRONLY)
	open("append", fileVictim, unix.O_WRONLY|unix.O_APPEND)
	open("create", "new", unix.O_WRONLY|unix.O_CREAT)
	open("create_exclusive", "new2", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	open("empty_on_open", fileVictim, unix.O_RDONLY|unix.O_TRUNC)
	open("temporary", ".", unix.O_RDWR|unix.O_TMPFILE)
	a.try("creat", func() error {
		_, err := unix.Open(a.own("new3"), unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o600)
		return err
	})
	a.try("through_symlink", func() error {
		os.Symlink(a.own("new4"), a.work("link"))
		return os.WriteFile(a.work("link"), []byte("spoiled"), 0o600)
	})
}

func truncateOutside(a *agent) {
	a.try("truncate", func() error { return unix.Truncate(a.own(fileVictim), 1) })
}

func makeOutside(a *agent) {
	a.try("mkdir", func() error { return unix.Mkdir(a.own("newdir"), 0o700) })
	a.try("fifo", func() error { return unix.Mknod(a.own("fifo"), unix.S_IFIFO|0o600, 0) })
	a.try("node", func() error { return unix.Mknod(a.own("node"), unix.S_IFREG|0o600, 0) })
	a.try("socket", func() error { return unix.Mknod(a.own("socket"), unix.S_IFSOCK|0o600, 0) })
	a.try("symlink", func() error { return unix.Symlink("/", a.own("symlink")) })
	a.try("hard_link", func() error { return unix.Link(a.own(fileVictim), a.own("hardlink")) })
}

func removeOutside(a *agent) {
	a.try("unlink", func() error { return unix.Unlink(a.own(fileVictim)) })
	a.try("rmdir", func() error { return unix.Rmdir(a.own(fileDir)) })
	a.try("unlinkat", func() error { return unix.Unlinkat(unix.AT_FDCWD, a.own(fileProgram), 0) })
}

func renameAcross(a *agent) {
	mine := func(name string) string {
		p := a.work(name)
		os.WriteFile(p, []byte("mine"), 0o600)
		return p
	}
	a.try("out", func() error { return unix.Rename(mine("a"), a.own("planted")) })
	a.try("over", func() error { return unix.Rename(mine("b"), a.own(fileProgram)) })
	a.try("exchange", func() error {
		return unix.Renameat2(unix.AT_FDCWD, mine("c"), unix.AT_FDCWD, a.own(fileVictim), unix.RENAME_EXCHANGE)
	})
	a.try("no_replace", func() error {
		return unix.Renameat2(unix.AT_FDCWD, mine("d"), unix.AT_FDCWD, a.own("planted2"), unix.RENAME_NOREPLACE)
	})
	a.try("within", func() error { return unix.Rename(a.own(fileDir), a.own("dir2")) })
	a.try("whiteout", func() error {
		// Whiteouts take CAP_MKNOD before Linux 5.8 and not every file system.
		err := unix.Renameat2(unix.AT_FDCWD, a.own("dir2"), unix.AT_FDCWD, a.own("dir3"), unix.RENAME_WHITEOUT)
		if a.Inside {
			err = unix.Renameat2(unix.AT_FDCWD, a.own(fileDir), unix.AT_FDCWD, a.own("dir3"), unix.RENAME_WHITEOUT)
		}
		return absentIf(err, a, "whiteouts here", unix.EINVAL, unix.EPERM)
	})
	a.try("in", func() error { return unix.Rename(a.own(fileSecret), a.work("stolen")) })
}

func linkAcross(a *agent) {
	a.try("secret_in", func() error { return linkSecret(a) })
	a.try("descriptor_in", func() error {
		fd, err := unix.Open(a.own(fileSecret), unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Linkat(unix.AT_FDCWD, procFD(fd), unix.AT_FDCWD, a.work("stolen2"), unix.AT_SYMLINK_FOLLOW); err != nil {
			return err
		}
		return a.readSecret(a.work("stolen2"))
	})
	a.try("out", func() error {
		os.WriteFile(a.work("mine"), []byte("mine"), 0o600)
		return unix.Link(a.work("mine"), a.own("planted"))
	})
}

func executeOutside(a *agent) {
	run := func(name string, argv ...string) {
		a.try(name, func() error { return ran(exec.Command(argv[0], argv[1:]...).Run()) })
	}
	run("script", a.own(fileProgram))
	run("by_proc_root", "/proc/self/root"+a.own(fileProgram))
	a.try("by_descriptor", func() error {
		fd, err := unix.Open(a.own(fileProgram), unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return ran(exec.Command(procFD(fd)).Run())
	})
	a.try("by_link", func() error {
		os.Symlink(a.own(fileProgram), a.work("link"))
		return ran(exec.Command(a.work("link")).Run())
	})
}

// ran takes an end of whatever status for a start.
func ran(err error) error {
	var exit *exec.ExitError
	if asError(err, &exit) {
		return nil
	}
	return err
}

// linkRace opens one name while another thread exchanges what is behind it.
func linkRace(a *agent) {
	mine, link := a.work("mine"), a.work("link")
	os.WriteFile(mine, []byte("mine"), 0o600)
	os.Symlink(a.own(fileSecret), link)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for !stop.Load() {
			unix.Renameat2(unix.AT_FDCWD, mine, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
		}
	}()
	a.race("rename", func() error {
		return a.readFD(unix.Open(mine, unix.O_RDONLY|unix.O_CLOEXEC, 0))
	})
	stop.Store(true)
	<-done
}

func linkSecret(a *agent) error {
	if err := unix.Link(a.own(fileSecret), a.work("stolen")); err != nil {
		return err
	}
	return a.readSecret(a.work("stolen"))
}
