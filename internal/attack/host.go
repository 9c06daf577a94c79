package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	"sallyport/internal/confine"
	"sallyport/internal/policy"
	"sallyport/internal/supervisor"
)

// sandboxSpec is what the process that becomes the supervisor reads.
type sandboxSpec struct {
	Policy  string                  `json:"policy"`
	Spec    string                  `json:"spec"` // path of the agent's spec
	Port    int                     `json:"port"`
	Resolve map[string][]netip.Addr `json:"resolve"`
	Off     confine.Walls           `json:"off"`
	Mode    policy.Mode             `json:"mode"`
}

// host is the supervisor's process: it runs the driver as the agent, through
// the same entry point as `sallyport run`.
func host() int {
	var in sandboxSpec
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fmt.Fprintln(os.Stderr, "attack: reading what to run:", err)
		return supervisor.ExitRefused
	}
	p, _, err := policy.Parse("attack.yaml", []byte(in.Policy))
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack: bug: its own policy:", err)
		return supervisor.ExitRefused
	}
	keys, err := policy.ParseRunConfig("attack-run.yaml", []byte(keyConfig))
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack: bug: its own run configuration:", err)
		return supervisor.ExitRefused
	}
	spec, err := readSpec(in.Spec)
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		return supervisor.ExitRefused
	}
	// The agent's target in here is what a supervisor has in memory.
	var mem heap
	secret := fmt.Sprintf("memory-of-the-supervisor-%d", os.Getpid())
	spec.Holder = Prey{PID: os.Getpid(), Addr: uint64(mem.put([]byte(secret))), Len: len(secret), Secret: secret, File: 0}
	if err := writeSpec(in.Spec, spec); err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		return supervisor.ExitRefused
	}
	supervisor.OwnProcess()
	status, err := supervisor.Run(context.Background(), supervisor.Options{
		Command: []string{spec.Exe, hidden, "drive", in.Spec},
		Policy:  p, RunConfig: keys, Workdir: spec.Workdir, Base: os.Environ(),
		Resolve: in.Resolve, ProxyPort: in.Port, Version: "attack",
		Stdout: os.Stdout, Stderr: os.Stderr,
		Note: func(s string) { fmt.Fprintln(os.Stderr, "sallyport:", s) },
		Off:  in.Off, Mode: in.Mode,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "sallyport:", err)
	}
	return status
}
