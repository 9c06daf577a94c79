// Package probe finds out what this host can enforce, by trying it.
//
// Deliberately not here: what follows from a fact (confine).
//
// What must hold: no probe leaves a trace, neither in this process nor on the
// host. What cannot be undone is tried by a thread or a child process that ends
// with the probe. A fact that could not be found out counts as missing.
package probe

import "sallyport/internal/kernel/caps"

// Facts are what the walls depend on. [Methods] says how each was measured.
// [Quick] fills in the first part only.
type Facts struct {
	Kernel string `json:"kernel"` // release, as uname(2) says
	Arch   string `json:"arch"`   // as GOARCH

	UID  int       `json:"uid"` // effective
	GID  int       `json:"gid"` // effective
	Caps caps.Sets `json:"caps"`

	NoNewPrivs     bool `json:"no_new_privs"`
	SeccompMode    int  `json:"seccomp_mode"`    // 0 none, 2 behind a filter already
	SeccompFilters int  `json:"seccomp_filters"` // filters installed already; -1 not known

	LandlockABI    int    `json:"landlock_abi"`    // 0: none
	LandlockErrata uint32 `json:"landlock_errata"` // repairs of the kernel, see landlock.Has
	LandlockWhy    string `json:"landlock_why,omitempty"`

	SeccompNotify SeccompNotify `json:"seccomp_notify"`

	Yama int `json:"yama"` // ptrace_scope; -1 without Yama

	ProcMem bool `json:"proc_mem"` // /proc/PID/mem of a child can be read
	ProcFD  bool `json:"proc_fd"`  // /proc/PID/fd of a child can be read

	// The rest is filled in by Host only.

	ProcessVMReadv bool `json:"process_vm_readv"` // of a child
	PidfdOpen      bool `json:"pidfd_open"`
	PidfdGetfd     bool `json:"pidfd_getfd"` // from a child
	UserNS         bool `json:"user_namespaces"`

	NetNS   Trial `json:"network_namespace"`      // with a veth pair and packet rules
	UserNet Trial `json:"user_network_namespace"` // in a user namespace, without privilege

	CgroupVersion int   `json:"cgroup_version"` // 1, 2; 0 none
	PIDLimit      int64 `json:"pid_limit"`      // processes that this cgroup may have; -1 no limit

	BlockedSyscalls []string `json:"blocked_syscalls"` // "name ERRNO", refused before the kernel looks at them

	GVisor     bool   `json:"gvisor"`
	UserKernel string `json:"user_kernel,omitempty"` // name of a kernel that is a program of another one
}

// Trial is something that works here, or why not.
type Trial struct {
	Works bool   `json:"works"`
	Why   string `json:"why,omitempty"`
}

// SeccompNotify is what of seccomp user notification works. [Quick] fills in
// NewListener, NestedListener, WaitKillable and Why.
type SeccompNotify struct {
	NewListener    bool `json:"new_listener"`
	NestedListener bool `json:"nested_listener"` // a filter above this process has a listener: there can be no second one
	WaitKillable   bool `json:"wait_killable"`   // and the kernel does not harm the caller for it
	SyncWakeUp     bool `json:"sync_wake_up"`
	AddFD          bool `json:"addfd"`
	AddFDSend      bool `json:"addfd_send"`

	Why string `json:"why,omitempty"` // what is missing
}

// Method is how a fact was measured.
type Method struct {
	Fact string // name in the JSON of [Facts]
	How  string
}

// Methods has a row for each fact. It is not to be changed.
var Methods = [...]Method{
	{"kernel", "uname"},
	{"arch", "of this program"},
	{"uid", "geteuid"},
	{"gid", "getegid"},
	{"caps", "/proc/self/status"},
	{"no_new_privs", "/proc/self/status"},
	{"seccomp_mode", "/proc/self/status"},
	{"seccomp_filters", "/proc/self/status"},
	{"landlock_abi", "landlock_create_ruleset asked for its version"},
	{"landlock_errata", "landlock_create_ruleset asked for its errata"},
	{"landlock_why", "errno of the same call"},
	{"seccomp_notify.new_listener", "a thread that ends at once installed a filter with a listener; without any filter above, only the sizes of the structures are asked for"},
	{"seccomp_notify.nested_listener", "the same, refused with EBUSY"},
	{"seccomp_notify.wait_killable", "a child's notified call outlived a stop signal and the child lived on; taken from the release where that is certain (before 5.19, from 6.17)"},
	{"seccomp_notify.sync_wake_up", "set on the child's listener"},
	{"seccomp_notify.addfd", "a child was given a descriptor"},
	{"seccomp_notify.addfd_send", "a child's call was answered with a descriptor"},
	{"seccomp_notify.why", "the first of these that failed"},
	{"yama", "/proc/sys/kernel/yama/ptrace_scope"},
	{"proc_mem", "read from a child that waits in a notified call; at a start only where Yama could forbid it"},
	{"proc_fd", "read from the same child"},
	{"process_vm_readv", "called on the same child"},
	{"pidfd_open", "called on the same child"},
	{"pidfd_getfd", "called on the same child"},
	{"user_namespaces", "a child made one"},
	{"network_namespace", "a thread made one that ended at once, in it a veth pair with both ends, and the packet rules; else the step that was refused"},
	{"user_network_namespace", "a child made a user namespace, and with the rights that it gave a network namespace; else the step that was refused"},
	{"cgroup_version", "kind of file system on /sys/fs/cgroup"},
	{"pid_limit", "pids.max of this cgroup and those above it, as far as they can be seen"},
	{"blocked_syscalls", "a child called each with arguments that can have no effect and compared the answer with the kernel's"},
	{"gvisor", "text of the kernel's log"},
	{"user_kernel", "text of the kernel's log, /proc/cpuinfo"},
}
