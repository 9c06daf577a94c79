package confine

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/seccomp"
)

// FilterOptions choose the rows of the system call table. A sandbox for people has
// both Gate and Static; a test leaves one of them out to prove that it is missed.
type FilterOptions struct {
	// Gate: calls that name a destination are notified. Without it they go to
	// the kernel, and what only the gate could serve is refused.
	Gate bool
	// Static: the filter decides by itself what it can. Without it there are
	// only the rows that notify.
	Static bool
	// SharedIPC lets System V IPC and POSIX message queues through. There is one
	// space of them for the whole host: without an IPC namespace of its own, the
	// agent shares it with every program of its user.
	SharedIPC bool `json:",omitempty"`
}

// FilterRules is the table of the agent's filter for one architecture. In it the
// first row that matches decides, and a call without a row is allowed.
//
// How to read a refusal: EPERM and EACCES mean that the kernel could say the same to an
// unprivileged user, ENOSYS that programs take the call as missing and have another
// way, and the socket errors are those of a kernel built without the family or
// protocol. Each was chosen so that real programs fall back well.
func FilterRules(arch seccomp.Arch, o FilterOptions) []seccomp.Rule {
	table := slices.Concat(socketRules(o.Gate), sendRules(o.Gate), optionRules(),
		processRules(), requestRules(), kernelRules(), ipcRules(o.SharedIPC), ownerRules(),
		[]seccomp.Rule{{
			Name: "calls of a later kernel", From: arch.Newest() + 1, Do: refuse(unix.ENOSYS),
			Why: "nobody has judged them yet; programs fall back to what this kernel's predecessor had",
		}})
	var rules []seccomp.Rule
	for _, r := range table {
		if !o.Static && r.Do != seccomp.Notify {
			continue
		}
		r.Calls = slices.DeleteFunc(slices.Clone(r.Calls), func(name string) bool {
			nr, known := arch.Number(name)
			return known && nr < 0
		})
		if r.From > 0 || len(r.Calls) > 0 {
			rules = append(rules, r)
		}
	}
	return rules
}

// FilterProgram is the table as the kernel takes it. An error is a bug of the
// table.
func FilterProgram(arch seccomp.Arch, o FilterOptions) ([]unix.SockFilter, error) {
	p, err := seccomp.Compile(arch, FilterRules(arch, o), seccomp.Allow)
	if err != nil {
		return nil, fmt.Errorf("bug: confine: filter table: %w", err)
	}
	return seccomp.Filter(p), nil
}

func refuse(e unix.Errno) seccomp.Action { return seccomp.Errno(e) }

// on is the calls of a row.
func on(names ...string) []string { return names }

// when is the conditions of a row.
func when(c ...seccomp.Cond) []seccomp.Cond { return c }
