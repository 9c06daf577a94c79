package confine

import (
	"fmt"
	"path/filepath"
	"slices"

	"sallyport/internal/kernel/landlock"
	"sallyport/internal/kernel/probe"
	"sallyport/internal/policy"
)

// Input is what a plan is made from, beside the facts of the host.
type Input struct {
	Policy    *policy.Policy
	Workdir   string // absolute; granted when the policy includes it
	ProxyPort uint16
	Readable  []string // paths that the supervisor needs the agent to read, such as CA files
	Off       Walls    // walls to leave out; only a test has a reason to
	Network   Network  // the network namespace that the agent is put into
	Tried     bool     // the facts say whether it can be made; else that is found out by making it
}

// Network says which network namespace the agent is put into.
type Network uint8

// The networks.
const (
	HostNetwork Network = iota // the supervisor's: Platform mode
	VethNetwork                // one that the supervisor has made, with a way to the proxy and packet rules
	UserNetwork                // one of a user namespace of its own, with no way anywhere
)

// FileRule grants one path and everything below it.
type FileRule struct {
	Path   string            `json:"path"`
	Access landlock.AccessFS `json:"access"`
	Why    string            `json:"why"`
	// Required paths that do not exist refuse the start; others void only
	// themselves, with a finding.
	Required bool `json:"required"`
}

// Plan is everything that will be done to the agent, as data.
type Plan struct {
	Files        []FileRule         `json:"files"`
	HandledFS    landlock.AccessFS  `json:"handled_fs"`
	HandledNet   landlock.AccessNet `json:"handled_net"`
	ConnectPorts []uint16           `json:"connect_ports"` // granted by Landlock; none with the gate
	Scopes       landlock.Scope     `json:"scopes"`
	Filter       FilterOptions      `json:"filter"`
	LoadFilter   bool               `json:"load_filter"`
	WaitKillable bool               `json:"wait_killable"`
	GuardScope   bool               `json:"guard_scope"`              // the guard has a domain with the signal scope
	Own          bool               `json:"own_namespaces,omitempty"` // the stage makes a user and a network namespace
	Report       Report             `json:"report"`
}

// Build makes the plan. It is pure. The error is a
// *RefusedError that names every layer which cannot hold on this host.
func Build(in Input, f probe.Facts) (*Plan, error) {
	hard := in.Policy.Landlock.Compatibility != policy.BestEffort
	p := &Plan{}
	p.planFiles(in, f, hard)
	p.planPorts(in, f)
	p.planScopes(in, f, hard)
	p.planFilter(in, f)
	p.planNetwork(in, f)
	var refused []Layer
	for _, l := range p.Report {
		if l.State == Refused {
			refused = append(refused, l)
		}
	}
	if refused != nil {
		return nil, &RefusedError{refused}
	}
	return p, nil
}

func (p *Plan) say(name string, s State, detail, remedy string) {
	p.Report = append(p.Report, Layer{name, s, detail, remedy})
}

// hole is a right that a kernel lacks and what follows from that.
type hole struct {
	abi    int
	kernel string
	what   string
}

// fileHoles are the file rights that came after the first Landlock ABI. Without
// REFER every move between directories is refused, which is strict, not a hole.
var fileHoles = []hole{
	{3, "6.2", "files outside the grants can be emptied by truncate(2)"},
	{5, "6.10", "ioctl(2) works on every device file that can be opened"},
}

const upgrade = "run a kernel of Linux %s or newer, or set landlock.compatibility: best_effort to accept this"

func (p *Plan) planFiles(in Input, f probe.Facts, hard bool) {
	const name = "files"
	if in.Off&WallFiles != 0 {
		p.say(name, Off, "left out by a test", "")
		return
	}
	if f.LandlockABI < 1 {
		p.say(name, Refused, "this kernel has no Landlock, so files cannot be held", "enable Landlock: CONFIG_SECURITY_LANDLOCK and \"landlock\" in the lsm= boot parameter (Linux 5.13)")
		return
	}
	p.HandledFS = landlock.FilesOf(f.LandlockABI)
	p.Files = fileRules(in, p.HandledFS, hard)
	for _, h := range fileHoles {
		if f.LandlockABI >= h.abi {
			continue
		}
		state := Degraded
		if hard {
			state = Refused
		}
		p.say(name, state, fmt.Sprintf("%s (needs Landlock ABI %d)", h.what, h.abi), fmt.Sprintf(upgrade, h.kernel))
	}
	p.say(name, Enforced, fmt.Sprintf("Landlock ABI %d: %d paths, everything else is closed", f.LandlockABI, len(p.Files)), "")
}

// fileRules turns the policy's paths into rules. A path in both lists is
// writable.
func fileRules(in Input, handled landlock.AccessFS, hard bool) []FileRule {
	fs := in.Policy.Filesystem
	read, write := handled&landlock.ReadFiles, handled&landlock.WriteFiles
	var rules []FileRule
	add := func(path string, access landlock.AccessFS, why string, required bool) {
		path = filepath.Clean(path)
		i := slices.IndexFunc(rules, func(r FileRule) bool { return r.Path == path })
		if i < 0 {
			rules = append(rules, FileRule{path, access, why, required})
			return
		}
		rules[i].Access |= access
	}
	if fs.IncludeWorkdir && in.Workdir != "" {
		add(in.Workdir, write, "working directory", true)
	}
	for _, p := range fs.ReadWrite {
		add(p, write, "filesystem_policy.read_write", hard)
	}
	for _, p := range fs.ReadOnly {
		add(p, read, "filesystem_policy.read_only", hard)
	}
	for _, p := range in.Readable {
		add(p, read, "needed to run", true)
	}
	return rules
}

func (p *Plan) planPorts(in Input, f probe.Facts) {
	const name = "tcp ports"
	gate := in.Off&WallGate == 0
	switch {
	case in.Off&WallPorts != 0:
		p.say(name, Off, "left out by a test", "")
	case f.LandlockABI < 4:
		p.say(name, Degraded, "no second wall behind the gate (needs Landlock ABI 4)", "run a kernel of Linux 6.7 or newer")
	default:
		p.HandledNet = landlock.NetworkOf(f.LandlockABI)
		if !gate {
			p.ConnectPorts = []uint16{in.ProxyPort}
		}
		p.say(name, Enforced, "Landlock refuses every TCP connect and bind that does not come from the gate", "")
	}
}

func (p *Plan) planScopes(in Input, f probe.Facts, hard bool) {
	const name = "signals"
	switch {
	case in.Off&WallScopes != 0:
		p.say(name, Off, "left out by a test", "")
	case f.LandlockABI < 6:
		state := Degraded
		if hard {
			state = Refused
		}
		p.say(name, state, "processes of the same user outside the sandbox can be signalled (needs Landlock ABI 6)", fmt.Sprintf(upgrade, "6.12"))
	default:
		p.Scopes = landlock.ScopesOf(f.LandlockABI)
		p.GuardScope = true
		p.say(name, Enforced, "Landlock scopes: signals and abstract unix sockets stay inside", "")
	}
}

func (p *Plan) planFilter(in Input, f probe.Facts) {
	const name, gateName = "system calls", "gate"
	p.LoadFilter = in.Off&WallFilter == 0 || in.Off&WallGate == 0
	p.Filter = FilterOptions{Gate: in.Off&WallGate == 0, Static: in.Off&WallFilter == 0}
	if in.Off&WallFilter != 0 {
		p.say(name, Off, "left out by a test", "")
	} else {
		p.say(name, Enforced, "seccomp: only TCP and unix streams, no other family, no io_uring, ptrace, mount, namespaces or foreign architectures", "")
	}
	switch {
	case in.Off&WallGate != 0:
		p.say(gateName, Off, "left out by a test", "")
	case !f.SeccompNotify.NewListener:
		p.say(gateName, Refused, "seccomp user notification is not available: "+f.SeccompNotify.Why,
			"run outside of the other sandbox, or on a kernel of Linux 5.14 or newer")
	case !f.ProcMem || !f.ProcFD:
		p.say(gateName, Refused, fmt.Sprintf("this host lets nobody read the memory and descriptors of a child, which the gate must (Yama ptrace_scope %d)", f.Yama),
			"sysctl kernel.yama.ptrace_scope=1, or 0")
	default:
		p.WaitKillable = f.SeccompNotify.WaitKillable
		p.say(gateName, Enforced, "the supervisor makes every connection; the proxy is the only way out", "")
	}
}

// planNetwork is about what stands behind the gate in the namespace modes. At a
// start, that the namespace can be made is not a fact but an act: the
// supervisor, or the stage, does it before anything of the agent runs, or
// refuses.
func (p *Plan) planNetwork(in Input, f probe.Facts) {
	const name = "network"
	switch {
	case in.Network == HostNetwork:
	case in.Tried && in.Network == VethNetwork && !f.NetNS.Works:
		p.say(name, Refused, "no network namespace can be made: "+f.NetNS.Why, "start it as root, in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN, or use another mode")
	case in.Tried && in.Network == UserNetwork && !f.UserNet.Works:
		p.say(name, Refused, "no user namespace can be had: "+f.UserNet.Why, "let users make namespaces, or use another mode")
	case in.Network == UserNetwork:
		p.Own = true
		p.say(name, Enforced, "a user and a network namespace of its own, which have no way anywhere", "")
	case in.Off&WallPackets != 0:
		p.say(name, Off, "packet rules left out by a test", "")
	default:
		p.say(name, Enforced, "a network namespace of its own; nftables there let TCP to the proxy through and nothing else", "")
	}
}

// Writable are the paths that the agent may write below.
func (p *Plan) Writable() []string {
	var out []string
	for _, r := range p.Files {
		if r.Access&landlock.WriteFile != 0 {
			out = append(out, r.Path)
		}
	}
	return out
}
