package attack

import (
	"encoding/json"
	"os"
)

// Spec tells an attack where things are. The suite writes it to a file that the
// agent may read.
type Spec struct {
	Inside bool     `json:"inside"`
	Cases  []string `json:"cases"`
	Twins  []string `json:"twins"`
	Races  int      `json:"races"` // how often each race is run; 0: as long as the budget lasts
	Group  int      `json:"group"` // the agent's; 0 is a usual one in pods and no privilege
	Token  string   `json:"token"` // marks everything of this run

	Exe     string `json:"exe"`     // this program, where the agent can run it
	Workdir string `json:"workdir"` // the agent's directory
	Outside string `json:"outside"` // below here nothing is granted; one directory a case
	Tools   string `json:"tools"`   // granted for reading and running

	TCP4   string   `json:"tcp4"` // servers that must not be reached, as address:port
	TCP6   string   `json:"tcp6"`
	MPTCP  string   `json:"mptcp"`
	UDP4   string   `json:"udp4"`
	UDP6   string   `json:"udp6"`
	Lite   string   `json:"lite"`            // UDP-Lite; empty: the kernel has none
	Beside []string `json:"beside"`          // the proxy's port on other addresses
	Own    []string `json:"own"`             // the host's own addresses
	Linked string   `json:"linked"`          // a link-local address with a zone
	Reuse  string   `json:"reuse"`           // a listener with SO_REUSEPORT; inside: the proxy's address
	Proxy  string   `json:"proxy"`           // the proxy; unsandboxed: one without rules
	Origin string   `json:"origin"`          // host:port that the policy allows
	Others []string `json:"others"`          // hosts that resolve to refused addresses, host:port
	ToolAt string   `json:"tool_at"`         // host:port that only another program may reach
	Leak   int      `json:"leak"`            // number of an inherited descriptor
	Unix   UnixSpec `json:"unix"`            //
	Victim Prey     `json:"victim"`          // a process outside
	Holder Prey     `json:"holder"`          // inside: the supervisor; unsandboxed: a second victim
	Guard  int      `json:"guard,omitempty"` //
	Shared Shared   `json:"shared"`          //
	Pty    string   `json:"pty"`             // a terminal of the same user
}

// UnixSpec are the unix servers outside, one of each kind.
type UnixSpec struct {
	Stream    string `json:"stream"`
	Datagram  string `json:"datagram"`
	Packet    string `json:"packet"`
	Abstract  string `json:"abstract"` // without the leading zero byte
	AbstractD string `json:"abstract_datagram"`
}

// Prey is a process outside of the sandbox and what can be taken from it.
type Prey struct {
	PID    int    `json:"pid"`
	Addr   uint64 `json:"addr"` // where its secret lies in memory
	Len    int    `json:"len"`
	Secret string `json:"secret"`
	File   int    `json:"file"` // its descriptor of a secret file
	Socket int    `json:"socket"`
}

// Shared are the objects of the host that have no path of their own.
type Shared struct {
	Shm    string `json:"shm"`   // a file in /dev/shm; empty: there is none
	Queue  string `json:"queue"` // POSIX message queue
	SysV   int    `json:"sysv"`  // shared memory id, or -1
	SysVQ  int    `json:"sysv_queue"`
	SysVS  int    `json:"sysv_semaphore"`
	Secret string `json:"secret"`
}

func writeSpec(path string, s Spec) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

func readSpec(path string) (Spec, error) {
	var s Spec
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}
