package attack

import (
	"slices"
	"time"
)

// Category groups cases by what is attacked.
type Category string

// The categories, in the order in which they are run and printed.
const (
	Sockets     Category = "sockets"
	Processes   Category = "processes"
	Files       Category = "files"
	Proxy       Category = "proxy"
	Credentials Category = "credentials"
	Walls       Category = "walls"
)

// Wall names what stops an attack. Those that a test can leave out have the
// names that package confine gives them.
type Wall string

// The walls.
const (
	WallGate      Wall = "gate"
	WallFilter    Wall = "seccomp-filter"
	WallPorts     Wall = "landlock-ports"
	WallFiles     Wall = "landlock-files"
	WallScopes    Wall = "landlock-scopes"
	WallDomain    Wall = "landlock-domain" // nobody in a domain traces anybody outside of it
	WallPrivilege Wall = "no-privilege"    // the agent's identity, its empty sets, no_new_privs
	WallLaunch    Wall = "launch"          // what the start of the agent left out
	WallGuard     Wall = "guard"           // the process that ends the tree
	WallProxy     Wall = "proxy"
	WallNamespace Wall = "network-namespace" // namespace and userns mode only
	WallHost      Wall = "host"              // refused on this host without our doing
)

// stop is one way in which a case is expected to end.
type stop struct {
	wall   Wall
	errnos []string // names of errno values, or the words of a refusal
}

func by(w Wall, errnos ...string) stop { return stop{w, errnos} }

// control says how a case shows that its attack would work.
type control uint8

const (
	mustWork  control = iota // the same code, unsandboxed, does what it tries
	mustKeep                 // a property that must hold on both sides
	noControl                // the same code unsandboxed would hurt the host
)

// Case is one attack.
type Case struct {
	Name     string
	Category Category
	What     string // the attack in one sentence

	needs   []need
	control control
	group   string // cases of one group share a sandbox; the empty group is the big one
	twin    string // the allowed counterpart, by name
	attack  func(*agent)
	stops   []stop
	held    []string // errnos by which a host may refuse the control to everybody
	files   bool     // has a directory outside of the grants to itself
	open    string   // why this is not covered: a documented hole, not an escape
	limit   time.Duration
	raced   bool                        // takes as long as the number of races
	outside func(*scene, string) string // answers what the attack tells
}

// runtimesOwn is how the profile of a container runtime refuses a socket to
// everybody in the container: containerd 2 compares all 64 bits of a family.
var runtimesOwn = []string{"EAFNOSUPPORT", "EPERM"}

// Expected names the walls that should stop the case, the first one first.
func (c Case) Expected() []Wall {
	var w []Wall
	for _, s := range c.stops {
		if !slices.Contains(w, s.wall) {
			w = append(w, s.wall)
		}
	}
	return w
}

// stoppedBy finds the wall that answers with errno.
func (c Case) stoppedBy(errno string) (Wall, bool) {
	for _, s := range c.stops {
		if slices.Contains(s.errnos, errno) {
			return s.wall, true
		}
	}
	return "", false
}

// defaultLimit is how long a case may take on each side.
const defaultLimit = 3 * time.Minute

func (c Case) patience(races int) time.Duration {
	if c.raced {
		return 2*time.Minute + time.Duration(races)*20*time.Millisecond
	}
	if c.limit != 0 {
		return c.limit
	}
	return defaultLimit
}

// Cases is the whole table, in the order of its categories.
func Cases() []Case {
	return slices.Concat(socketCases(), addressCases(), raceCases(), processCases(), privilegeCases(), fileCases(), proxyCases(), credentialCases(), wallCases())
}
