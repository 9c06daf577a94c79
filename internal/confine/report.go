package confine

import (
	"fmt"
	"strings"
)

// Walls name the layers of the fence, so that a test can leave one out.
type Walls uint8

// The walls. A plan for use has all of them.
const (
	WallFiles   Walls = 1 << iota // Landlock file rules
	WallPorts                     // Landlock TCP rules
	WallScopes                    // Landlock scopes: abstract unix sockets, signals
	WallFilter                    // the static seccomp table
	WallGate                      // seccomp user notification and the socket broker
	WallPackets                   // packet rules of Namespace mode
)

var wallNames = map[Walls]string{
	WallFiles: "landlock-files", WallPorts: "landlock-ports", WallScopes: "landlock-scopes",
	WallFilter: "seccomp-filter", WallGate: "gate",
	WallPackets: "nftables",
}

// ParseWall finds a wall by the name that reports use.
func ParseWall(name string) (Walls, error) {
	for w, n := range wallNames {
		if n == name {
			return w, nil
		}
	}
	return 0, fmt.Errorf("no wall is called %q", name)
}

func (w Walls) String() string {
	var s []string
	for b := WallFiles; b <= WallPackets; b <<= 1 {
		if w&b != 0 {
			s = append(s, wallNames[b])
		}
	}
	return strings.Join(s, ",")
}

// State is how much of a layer holds on this host.
type State string

// The states of a layer.
const (
	Enforced State = "enforced"
	Degraded State = "degraded" // holds, but for the hole that Detail names
	Refused  State = "refused"  // cannot hold; the plan is an error
	Off      State = "off"      // left out by a test
)

// Layer is one line of the report.
type Layer struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail"`           // what it holds, or the exact hole
	Remedy string `json:"remedy,omitempty"` // what to do about a hole
}

// Report says what is enforced, layer by layer, on this host.
type Report []Layer

// Holes are the layers that do not hold in full.
func (r Report) Holes() []Layer {
	var out []Layer
	for _, l := range r {
		if l.State != Enforced {
			out = append(out, l)
		}
	}
	return out
}

// RefusedError says why no plan can hold on this host. Nothing was started.
type RefusedError struct{ Layers []Layer }

func (e *RefusedError) Error() string {
	var s []string
	for _, l := range e.Layers {
		s = append(s, l.Name+": "+l.Detail)
	}
	return "this host cannot hold the sandbox: " + strings.Join(s, "; ")
}

// Hint is the remedy of the first layer that has one.
func (e *RefusedError) Hint() string {
	for _, l := range e.Layers {
		if l.Remedy != "" {
			return l.Remedy
		}
	}
	return ""
}
