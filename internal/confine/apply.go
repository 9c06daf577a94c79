package confine

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/stage"
	"sallyport/internal/kernel/landlock"
	"sallyport/internal/kernel/seccomp"
)

// Finding is something that the plan could not do without being refused for it.
type Finding struct {
	Path   string
	Reason string
}

// Apply builds the rulesets and the filter, and starts the command behind them.
// The command's own fields of the spec are the caller's; Apply fills in the
// walls. It waits for ready before anything is forked: what the agent needs may be
// in the making. On error nothing runs.
func (p *Plan) Apply(spec stage.Spec, ready func() error) (*stage.Process, []Finding, error) {
	spec.Ruleset, spec.GuardRuleset = -1, -1
	agent, findings, err := p.agentRuleset()
	if err != nil {
		return nil, nil, err
	}
	if agent >= 0 {
		defer unix.Close(agent)
		spec.Ruleset = agent
	}
	if p.GuardScope {
		guard, err := guardRuleset()
		if err != nil {
			return nil, nil, err
		}
		defer unix.Close(guard)
		spec.GuardRuleset = guard
	}
	if p.LoadFilter {
		if spec.Filter, err = FilterProgram(seccomp.Native, p.Filter); err != nil {
			return nil, nil, err
		}
		if p.Filter.Gate {
			spec.ListenerFlags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		}
		if p.Filter.Gate && p.WaitKillable {
			spec.ListenerFlags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		}
	}
	spec.Own = p.Own
	if err := ready(); err != nil {
		return nil, nil, err
	}
	proc, err := stage.Start(spec)
	return proc, findings, err
}

// guardRuleset makes the domain that holds signals in. Every Landlock layer
// denies moving files between directories unless it grants REFER, whether it
// handles files or not (LANDLOCK_ACCESS_FS_REFER in linux/landlock.h); so this
// one grants it everywhere and leaves files to the agent's layer.
func guardRuleset() (int, error) {
	fd, err := landlock.Create(landlock.Attr{FS: landlock.Refer, Scoped: landlock.ScopeSignal})
	if err != nil {
		return -1, err
	}
	if err := grant(fd, FileRule{Path: "/", Access: landlock.Refer}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// agentRuleset opens every path of the plan and makes the agent's ruleset; -1
// if the plan has nothing for Landlock.
func (p *Plan) agentRuleset() (int, []Finding, error) {
	attr := landlock.Attr{FS: p.HandledFS, Net: p.HandledNet, Scoped: p.Scopes}
	if attr == (landlock.Attr{}) {
		return -1, nil, nil
	}
	fd, err := landlock.Create(attr)
	if err != nil {
		return -1, nil, err
	}
	var findings []Finding
	for _, r := range p.Files {
		err := grant(fd, r)
		switch {
		case err == nil:
		case r.Required:
			unix.Close(fd)
			return -1, nil, fmt.Errorf("%s: %s: %w", r.Why, r.Path, err)
		default:
			findings = append(findings, Finding{r.Path, fmt.Sprintf("%s: %v; this grant is void, the others hold", r.Why, err)})
		}
	}
	for _, port := range p.ConnectPorts {
		if err := landlock.AddPort(fd, port, landlock.ConnectTCP); err != nil {
			unix.Close(fd)
			return -1, nil, err
		}
	}
	return fd, findings, nil
}

func grant(ruleset int, r FileRule) error {
	fd, err := unix.Open(r.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("does not exist")
		}
		return err
	}
	defer unix.Close(fd)
	return landlock.AddPath(ruleset, fd, r.Access)
}
