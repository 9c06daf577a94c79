// Package probe finds out what this host can enforce, by trying it.
//
// Deliberately not here: what follows from a fact (confine).
//
// What must hold: no probe leaves a trace, neither in this process nor on the
// host; a fact that could not be found out counts as missing.
package probe

// Facts are what the walls depend on.
type Facts struct {
	Kernel string `json:"kernel"` // release, as uname(2) says
	Arch   string `json:"arch"`

	UID int `json:"uid"`
	GID int `json:"gid"`

	LandlockABI    int    `json:"landlock_abi"` // 0: none
	LandlockErrata uint32 `json:"landlock_errata"`
	LandlockWhy    string `json:"landlock_why,omitempty"` // why there is none

	SeccompNotify SeccompNotify `json:"seccomp_notify"`
}

// SeccompNotify is what of seccomp user notification works.
type SeccompNotify struct {
	NewListener  bool   `json:"new_listener"`
	WaitKillable bool   `json:"wait_killable"`
	Why          string `json:"why,omitempty"` // what is missing
}
