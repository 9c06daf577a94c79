package confine

import (
	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/seccomp"
)

// namespaces are the flags of clone(2) that make one. CLONE_NEWTIME is not among
// them: its bit is part of clone's exit signal.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// unshared are the flags of unshare(2) that part a process from its own threads
// and nothing else.
const unshared = unix.CLONE_FILES | unix.CLONE_FS | unix.CLONE_SYSVSEM | unix.CLONE_THREAD | unix.CLONE_SIGHAND | unix.CLONE_VM

const tiocLinux = 0x541c // TIOCLINUX of asm-generic/ioctls.h

// Requests of ioctl(2) on files. golang.org/x/sys/unix has no name for the reflink of
// OCFS2 (fs/ocfs2/ocfs2_ioctl.h); requests of btrfs have the type 0x94 (linux/btrfs.h).
const (
	ocfs2Reflink = 0x40186f04
	requestType  = 0xff00
	btrfsType    = 0x9400
)

const coreLimit = "at any limit but 1 a crash starts the host's core handler, which often is root's, on memory of the agent's choice; the stage sets 1, and programs that lower it to 0 go on"

// processRules keep the agent in its own processes, and each process what it is.
func processRules() []seccomp.Rule {
	eperm := refuse(unix.EPERM)
	return []seccomp.Rule{
		{Name: "namespaces by clone", Calls: on("clone"), When: when(seccomp.Int(0).Has(namespaces)), Do: eperm,
			Why: "a user namespace holds every capability inside: mounts, raw sockets and most kernel bugs start there"},
		{Name: "clone3", Calls: on("clone3"), Do: refuse(unix.ENOSYS),
			Why: "its flags are in memory, where no filter sees them; libc falls back to clone"},
		{Name: "namespaces by unshare", Calls: on("unshare"), When: when(seccomp.Word(0).Has(^uint64(unshared))), Do: eperm,
			Why: "as for clone; every flag that is not known to stay inside the process counts as a namespace"},
		{Name: "namespaces by setns", Calls: on("setns"), Do: eperm,
			Why: "enters namespaces of others"},
		{Name: "other processes", Calls: on("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"), Do: eperm,
			Why: "reads, changes or takes descriptors from a process of the same user; a tracer could also change what the filter saw"},
		{Name: "limits of others", Calls: on("prlimit64"), When: when(seccomp.Int(0).IsNot(0), seccomp.Word(2).IsNot(0)), Do: eperm,
			Why: "limits are set on any process of the same user, and no CPU time or no descriptors ends it; 0 is the caller itself"},
		{Name: "core limit", Calls: on("setrlimit"), When: when(seccomp.Int(0).Is(unix.RLIMIT_CORE)), Do: seccomp.Pretend, Why: coreLimit},
		{Name: "core limit", Calls: on("prlimit64"), When: when(seccomp.Int(1).Is(unix.RLIMIT_CORE), seccomp.Word(2).IsNot(0)), Do: seccomp.Pretend, Why: coreLimit},
		{Name: "io_uring", Calls: on("io_uring_setup", "io_uring_enter", "io_uring_register"), Do: refuse(unix.ENOSYS),
			Why: "makes sockets and connects them without a system call; programs fall back to epoll"},
		{Name: "listener of its own", Calls: on("seccomp"), When: when(seccomp.Int(0).Is(unix.SECCOMP_SET_MODE_FILTER), seccomp.Int(1).Has(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)), Do: refuse(unix.EBUSY),
			Why: "of two filters that notify, the newer one is asked; the errno is the kernel's for a second listener. Filters that only refuse are free"},
		{Name: "personality", Calls: on("personality"), When: when(seccomp.Int(0).IsNot(0, 0xffffffff)), Do: eperm,
			Why: "turns off address randomisation and makes memory executable; asking and the default are free"},
		{Name: "executable of another name", Calls: on("prctl"), When: when(seccomp.Int(0).Is(unix.PR_SET_MM)), Do: eperm,
			Why: "changes /proc/PID/exe and cmdline, by which a connection is told apart"},
		{Name: "exec of a descriptor", Calls: on("execveat"), When: when(seccomp.Int(4).Has(unix.AT_EMPTY_PATH)), Do: refuse(unix.ENOSYS),
			Why: "the usual way to run a memfd; fexecve falls back to /proc/self/fd. What runs is judged by its identity, not by this row"},
		{Name: "terminal input", Calls: on("ioctl"), When: when(seccomp.Int(1).Is(unix.TIOCSTI, tiocLinux, unix.TIOCSETD)), Do: eperm,
			Why: "types into the terminal of whoever started the sandbox, or pastes, or loads line disciplines; the kernel takes the request as 32 bits"},
	}
}

// requestRules are about what Landlock is not asked for: it has hooks where a path is
// walked, and its right for ioctl is about devices alone.
func requestRules() []seccomp.Rule {
	request, other := seccomp.Int(1), refuse(unix.ENOTTY)
	return []seccomp.Rule{
		{Name: "subvolumes", Calls: on("ioctl"), When: when(request.And(requestType).Is(btrfsType), request.IsNot(unix.FICLONE, unix.FICLONERANGE, unix.FIDEDUPERANGE)), Do: other,
			Why: "makes, copies and removes them in a directory that is open for reading: files of the agent would stand where it may only read. The errno is that of other file systems; shared extents need a file that is open for writing"},
		{Name: "files by other ways", Calls: on("ioctl"), When: when(request.Is(ocfs2Reflink, unix.FS_IOC_ENABLE_VERITY, unix.FS_IOC_SET_ENCRYPTION_POLICY)), Do: other,
			Why: "makes a file, or changes for good what one is, with no more than the right to read"},
	}
}

// kernelRules close interfaces to the machine itself. Most of them need a capability,
// which the agent never has: there this is the second wall.
func kernelRules() []seccomp.Rule {
	eperm, enosys := refuse(unix.EPERM), refuse(unix.ENOSYS)
	return []seccomp.Rule{
		{Name: "mounts", Calls: on("mount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount",
			"fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr"), Do: eperm,
			Why: "paths would mean something else than what the policy grants"},
		{Name: "mount and namespace lists", Calls: on("statmount", "listmount", "listns"), Do: enosys,
			Why: "tell of mounts and namespaces outside of the grants; programs fall back to /proc, which the policy grants or not"},
		{Name: "file handles", Calls: on("open_by_handle_at"), Do: eperm,
			Why: "opens a file without walking its path"},
		{Name: "file monitors", Calls: on("fanotify_init", "fanotify_mark"), Do: eperm,
			Why: "reports what others do on a whole file system"},
		{Name: "kernel programs", Calls: on("bpf", "perf_event_open", "userfaultfd"), Do: eperm,
			Why: "run or steer code in the kernel: large attack surface"},
		{Name: "keyrings", Calls: on("add_key", "request_key", "keyctl"), Do: eperm,
			Why: "keys are shared by user, not by sandbox, and a request starts a program outside"},
		{Name: "kernel images", Calls: on("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"), Do: eperm,
			Why: "change which kernel runs"},
		{Name: "machine state", Calls: on("swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "settimeofday", "clock_settime",
			"sethostname", "setdomainname", "vhangup", "nfsservctl"), Do: eperm,
			Why: "change the machine for everybody"},
		{Name: "kernel log", Calls: on("syslog", "lookup_dcookie"), Do: eperm,
			Why: "kernel addresses and other programs' messages"},
		{Name: "ports", Calls: on("iopl", "ioperm"), Do: eperm,
			Why: "direct access to hardware"},
	}
}

// ipcRules are about objects that have no path, so that Landlock cannot hold them.
func ipcRules(shared bool) []seccomp.Rule {
	do, why := refuse(unix.ENOSYS), "one space for the whole host: any program of the same user can be read, written and signalled through it; the errno is that of a kernel built without"
	if shared {
		do, why = seccomp.Allow, "the policy lets the agent share it with every program of its user"
	}
	return []seccomp.Rule{
		{Name: "System V IPC", Calls: on("shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv", "msgctl"), Do: do, Why: why},
		{Name: "message queues", Calls: on("mq_open", "mq_unlink"), Do: do, Why: why},
	}
}

// ownerRules are calls that reach past the sandbox by the user's identity and are
// allowed all the same. They stand here to be seen.
func ownerRules() []seccomp.Rule {
	return []seccomp.Rule{
		{Name: "signals", Calls: on("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"), Do: seccomp.Allow,
			Why: "a register does not say who is outside: Landlock's signal scope does, from ABI 6 on, and the report names its absence"},
		{Name: "scheduling", Calls: on("setpriority", "sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity", "ioprio_set"), Do: seccomp.Allow,
			Why: "threads of one program set each other's; other programs of the same user can be slowed by it, not entered"},
		{Name: "file attributes", Calls: on("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "utime", "utimes", "futimesat", "utimensat",
			"setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat", "file_setattr"), Do: seccomp.Allow,
			Why: "Landlock has no right for them and a filter sees no paths: attributes of the user's own files can be changed outside of the grants"},
		{Name: "file watches", Calls: on("inotify_add_watch"), Do: seccomp.Allow,
			Why: "Landlock has no right for it: names of files that change in the user's own directories can be seen"},
	}
}
