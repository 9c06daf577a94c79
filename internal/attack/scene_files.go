package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// makeCases prepares each case's directory outside of the grants, and the FIFO
// by which it is answered.
func (s *scene) makeCases(cases []Case) error {
	for _, c := range cases {
		if c.outside != nil {
			fifo := filepath.Join(s.spec.Workdir, rendezvous(c.Name))
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				return fmt.Errorf("%s: %w", fifo, err)
			}
			if err := s.give(fifo); err != nil {
				return err
			}
		}
		dir := filepath.Join(s.spec.Outside, c.Name)
		if err := s.makeOutside(dir); err != nil {
			return err
		}
		if c.files {
			s.before[c.Name] = snapshot(dir)
		}
	}
	return nil
}

// makeOutside fills a directory with what can be read, spoiled and run. All of
// it belongs to the agent: nothing but a wall keeps it out.
func (s *scene) makeOutside(dir string) error {
	files := []struct {
		name, content string
		mode          os.FileMode
	}{
		{fileSecret, s.spec.Token, 0o600}, {fileVictim, "untouched", 0o600}, {fileProgram, "#!/bin/sh\nexit 0\n", 0o755},
	}
	if err := os.MkdirAll(filepath.Join(dir, fileDir), 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.content), f.mode); err != nil {
			return err
		}
	}
	for _, name := range []string{"", fileDir, fileSecret, fileVictim, fileProgram} {
		if err := s.give(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// snapshot describes everything below dir by what changes with it. The time of
// the last change of an inode cannot be set back.
func snapshot(dir string) map[string]string {
	out := map[string]string{}
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			out[p] = err.Error()
			return nil
		}
		info, err := d.Info()
		if err != nil {
			out[p] = err.Error()
			return nil
		}
		st := info.Sys().(*syscall.Stat_t)
		out[p] = fmt.Sprintf("mode %o uid %d gid %d size %d links %d changed %d.%d", st.Mode, st.Uid, st.Gid, st.Size, st.Nlink, st.Ctim.Sec, st.Ctim.Nsec)
		return nil
	})
	return out
}

// spoiled names what is not as it was in a case's directory.
func (s *scene) spoiled(name string) []string {
	before, known := s.before[name]
	if !known {
		return nil
	}
	dir := filepath.Join(s.spec.Outside, name)
	after := snapshot(dir)
	var out []string
	for p, was := range before {
		if is := after[p]; is != was {
			out = append(out, "changed "+short(dir, p))
		}
	}
	for p := range after {
		if _, was := before[p]; !was {
			out = append(out, "new "+short(dir, p))
		}
	}
	sort.Strings(out)
	return out
}

func short(dir, p string) string {
	if p == dir {
		return "the directory"
	}
	return strings.TrimPrefix(p, dir+"/")
}

// makeShared makes the objects that are shared by name or number, as the
// agent's user would have them.
func (s *scene) makeShared() error {
	sh := Shared{SysV: -1, SysVQ: -1, SysVS: -1, Secret: s.spec.Token}
	const dir = "/dev/shm"
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		p := filepath.Join(dir, s.spec.Token)
		if err := os.WriteFile(p, []byte(sh.Secret), 0o600); err == nil {
			sh.Shm = p
			if err := s.give(p); err != nil {
				return err
			}
		}
	}
	var h heap
	if fd, err := call(unix.SYS_MQ_OPEN, h.text(s.spec.Token), unix.O_RDWR|unix.O_CREAT, 0o666, 0); err == nil {
		sh.Queue = s.spec.Token
		unix.Fchown(int(fd), s.agent.uid, s.agent.gid)
		unix.Fchmod(int(fd), 0o666)
		unix.Close(int(fd))
	}
	const mode = ipcCreate | 0o666
	if id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, mode); err == nil {
		sh.SysV = id
		if b, err := unix.SysvShmAttach(id, 0, 0); err == nil {
			copy(b, sh.Secret)
			unix.SysvShmDetach(b)
		}
	}
	if id, err := call(unix.SYS_MSGGET, unix.IPC_PRIVATE, mode); err == nil {
		sh.SysVQ = int(id)
	}
	if id, err := call(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, mode); err == nil {
		sh.SysVS = int(id)
	}
	s.spec.Shared = sh
	s.makePty()
	return nil
}

func (s *scene) removeShared() {
	sh := s.spec.Shared
	if sh.Secret == "" {
		return
	}
	if sh.Shm != "" {
		os.Remove(sh.Shm)
	}
	var h heap
	if sh.Queue != "" {
		call(unix.SYS_MQ_UNLINK, h.text(sh.Queue))
	}
	if sh.SysV >= 0 {
		unix.SysvShmCtl(sh.SysV, unix.IPC_RMID, nil)
	}
	if sh.SysVQ >= 0 {
		call(unix.SYS_MSGCTL, uintptr(sh.SysVQ), unix.IPC_RMID, 0)
	}
	if sh.SysVS >= 0 {
		call(unix.SYS_SEMCTL, uintptr(sh.SysVS), 0, unix.IPC_RMID)
	}
}

// makePty opens a terminal of the agent's user. What is typed into it is seen.
func (s *scene) makePty() {
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPTN)
	if err != nil || unix.IoctlSetPointerInt(int(f.Fd()), unix.TIOCSPTLCK, 0) != nil {
		f.Close()
		return
	}
	p := fmt.Sprintf("/dev/pts/%d", n)
	if s.give(p) != nil {
		f.Close()
		return
	}
	s.pty, s.spec.Pty = f, p
}

// typed reads what was written to the terminal.
func (s *scene) typed() string {
	if s.pty == nil {
		return ""
	}
	fd := int(s.pty.Fd())
	if wait(fd, unix.POLLIN, 0) != nil {
		return ""
	}
	b := make([]byte, 1024)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "" // EIO: nobody has it open
	}
	return printable(b[:n])
}
