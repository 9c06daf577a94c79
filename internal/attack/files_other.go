package attack

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

// metadataOutside changes what is not content. Landlock does not see any of it.
func metadataOutside(a *agent) {
	f := a.own(fileVictim)
	a.try("mode", func() error { return unix.Chmod(f, 0o777) })
	a.try("mode_2", func() error {
		err := unix.Fchmodat(unix.AT_FDCWD, f, 0o701, unix.AT_SYMLINK_NOFOLLOW)
		return absentIf(err, a, "fchmodat2", unix.EOPNOTSUPP, unix.ENOSYS)
	})
	a.try("mode_by_descriptor", func() error {
		fd, err := unix.Open(f, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Chmod(procFD(fd), 0o711)
	})
	a.try("owner", func() error { return unix.Chown(f, os.Getuid(), os.Getgid()) })
	a.try("times", func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
	})
	a.try("attribute", func() error {
		err := unix.Setxattr(f, "user.attack", []byte("x"), 0)
		return absentIf(err, a, "user attributes on this file system", unix.EOPNOTSUPP)
	})
	a.try("remove_attribute", func() error {
		err := unix.Removexattr(f, "user.attack")
		return absentIf(err, a, "user attributes on this file system", unix.EOPNOTSUPP, unix.ENODATA)
	})
}

// deviceIoctl sends a harmless command to devices that everybody may open.
func deviceIoctl(a *agent) {
	const rndGetEntCnt = 0x80045200
	for _, dev := range []string{"/dev/random", "/dev/urandom"} {
		a.try(filepath.Base(dev), func() error {
			fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, at := a.heap.alloc(8)
			_, err = call(unix.SYS_IOCTL, uintptr(fd), rndGetEntCnt, at)
			return err
		})
	}
	for _, dev := range []string{"/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/kmsg", "/dev/mem", "/dev/vhost-vsock", "/dev/loop-control", "/dev/snapshot", "/dev/uinput"} {
		a.probe(filepath.Base(dev), func() error {
			fd, err := unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			if err == unix.ENOENT && !a.Inside {
				return &absent{"no such device here"}
			}
			return err
		})
	}
}

// makeSubvolume needs nothing but a descriptor for reading. With one of its own
// subvolumes, and another request, an agent puts files where it may only read.
func makeSubvolume(a *agent) {
	const subvolCreate = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE of linux/btrfs.h
	a.try("make", func() error {
		dir := a.work()
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.BTRFS_SUPER_MAGIC {
			return &absent{"the suite's directory is not on btrfs; TMPDIR chooses another"}
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		args, at := a.heap.alloc(4096) // struct btrfs_ioctl_vol_args
		copy(args[8:], "subvolume")
		_, err = call(unix.SYS_IOCTL, uintptr(fd), subvolCreate, at)
		return err
	})
}

func makeDevices(a *agent) {
	for name, mode := range map[string]uint32{"character": unix.S_IFCHR, "block": unix.S_IFBLK} {
		a.probe(name, func() error { return unix.Mknod(a.work(name), mode|0o600, int(unix.Mkdev(1, 3))) })
	}
}

// kernelFiles opens for writing what an unprivileged user may not write either;
// nothing is written.
func kernelFiles(a *agent) {
	for _, p := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/proc/self/uid_map",
		"/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs", "/etc/passwd", "/etc/ld.so.preload",
	} {
		a.probe(filepath.Base(filepath.Dir(p))+"_"+filepath.Base(p), func() error {
			fd, err := unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
				if p == "/proc/self/uid_map" && !a.Inside {
					return unix.EPERM // opens for everybody, and is judged at the write
				}
			}
			if err == unix.ENOENT && !a.Inside {
				return &absent{"no such file here"}
			}
			return err
		})
	}
}

func shmFiles(a *agent) {
	if a.Shared.Shm == "" {
		a.try("read", func() error { return &absent{"no /dev/shm here"} })
		return
	}
	a.try("read", func() error {
		b, err := os.ReadFile(a.Shared.Shm)
		if err != nil {
			return err
		}
		return secretIn(b, a.Shared.Secret)
	})
	a.try("write", func() error { return openWrite(a.Shared.Shm) })
	a.try("create", func() error {
		p := filepath.Join(filepath.Dir(a.Shared.Shm), a.Token+"-of-the-agent")
		err := os.WriteFile(p, []byte("x"), 0o600)
		os.Remove(p)
		return err
	})
}

func openWrite(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func posixQueues(a *agent) {
	open := func(name string, flags uintptr) error {
		fd, err := call(unix.SYS_MQ_OPEN, a.heap.text(name), flags, 0o600, 0)
		if err == nil {
			unix.Close(int(fd))
		}
		return err
	}
	if a.Shared.Queue == "" {
		a.try("open", func() error { return &absent{"this kernel was built without message queues"} })
		return
	}
	a.try("open", func() error { return open(a.Shared.Queue, unix.O_RDWR) })
	a.try("create", func() error {
		name := a.Token + "-of-the-agent"
		err := open(name, unix.O_RDWR|unix.O_CREAT)
		call(unix.SYS_MQ_UNLINK, a.heap.text(name))
		return err
	})
	a.probe("unlink", func() error { _, err := call(unix.SYS_MQ_UNLINK, a.heap.text("attack-nothing")); return err })
}

const ipcCreate = 0o1000

func sysvIPC(a *agent) {
	if a.Shared.SysV < 0 {
		a.try("memory", func() error { return &absent{"this kernel was built without System V IPC"} })
		return
	}
	a.try("memory", func() error {
		b, err := unix.SysvShmAttach(a.Shared.SysV, 0, 0)
		if err != nil {
			return err
		}
		defer unix.SysvShmDetach(b)
		if !bytes.Contains(b, []byte(a.Shared.Secret)) {
			return &refusal{wordNothing, ""}
		}
		return nil
	})
	a.try("queue", func() error {
		msg := append(number64(1), 'x')
		_, err := call(unix.SYS_MSGSND, uintptr(a.Shared.SysVQ), a.heap.put(msg), 1, unix.IPC_NOWAIT)
		return err
	})
	a.try("semaphore", func() error {
		op := make([]byte, 6)
		binary.NativeEndian.PutUint16(op[2:], 1)
		_, err := call(unix.SYS_SEMOP, uintptr(a.Shared.SysVS), a.heap.put(op), 1)
		return err
	})
	// What is made here must go again, also where nothing stops it.
	for _, v := range []struct {
		name        string
		get, remove uintptr
		args        []uintptr
	}{
		{"make_memory", unix.SYS_SHMGET, unix.SYS_SHMCTL, []uintptr{unix.IPC_PRIVATE, 4096, ipcCreate | 0o600}},
		{"make_queue", unix.SYS_MSGGET, unix.SYS_MSGCTL, []uintptr{unix.IPC_PRIVATE, ipcCreate | 0o600}},
		{"make_semaphore", unix.SYS_SEMGET, unix.SYS_SEMCTL, []uintptr{unix.IPC_PRIVATE, 1, ipcCreate | 0o600}},
	} {
		a.try(v.name, func() error {
			id, err := call(v.get, v.args...)
			if err != nil {
				return err
			}
			if v.remove == unix.SYS_SEMCTL {
				_, err = call(v.remove, id, 0, unix.IPC_RMID)
			} else {
				_, err = call(v.remove, id, unix.IPC_RMID, 0)
			}
			return err
		})
	}
}
