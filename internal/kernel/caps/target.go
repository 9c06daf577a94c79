package caps

import (
	"fmt"
	"os/user"
	"strconv"
)

// NobodyID is the uid and gid of somebody who owns nothing, which the kernel
// itself uses for ids that it cannot show (overflowuid).
const NobodyID = 65534

// Identity is who a process becomes.
type Identity struct {
	UID, GID int
	Groups   []int  // supplementary groups; Target never gives any
	From     string // where the choice comes from, for people
}

// Target chooses the identity for what is started by root: the policy's user
// and group (names or numbers, either may be empty), else whoever called sudo,
// else nobody. Supplementary groups are not taken over: being in the group of a
// container engine is as good as being root.
//
// Root's user and group are refused, and so is a name that the host does not
// know. env is os.LookupEnv.
func Target(runAsUser, runAsGroup string, env func(string) (string, bool)) (Identity, error) {
	return target(runAsUser, runAsGroup, env, hostAccounts{})
}

// accounts are the users and groups of a host.
type accounts interface {
	user(name string) (uid, gid int, err error)
	group(name string) (gid int, err error)
	primaryGroup(uid int) (gid int, ok bool)
}

func target(runAsUser, runAsGroup string, env func(string) (string, bool), host accounts) (Identity, error) {
	id, err := targetUser(runAsUser, env, host)
	if err != nil {
		return Identity{}, err
	}
	if runAsGroup != "" {
		if id.GID, err = host.group(runAsGroup); err != nil {
			return Identity{}, err
		}
	}
	if id.UID == 0 {
		return Identity{}, fmt.Errorf("caps: user %q is root, expected any other", runAsUser)
	}
	if id.GID == 0 {
		return Identity{}, fmt.Errorf("caps: group of %s is root's, expected any other", id.From)
	}
	return id, nil
}

func targetUser(runAsUser string, env func(string) (string, bool), host accounts) (Identity, error) {
	if runAsUser != "" {
		uid, gid, err := host.user(runAsUser)
		return Identity{UID: uid, GID: gid, From: "the policy"}, err
	}
	uid, ok, err := number("SUDO_UID", env)
	if err != nil {
		return Identity{}, err
	}
	if !ok || uid == 0 { // not by sudo, or root called sudo
		return Identity{UID: NobodyID, GID: NobodyID, From: "nobody"}, nil
	}
	gid, ok, err := number("SUDO_GID", env)
	if err != nil {
		return Identity{}, err
	}
	if !ok || gid == 0 {
		gid = groupOf(uid, host)
	}
	return Identity{UID: uid, GID: gid, From: "SUDO_UID"}, nil
}

// number reads an id from the environment.
func number(key string, env func(string) (string, bool)) (id int, ok bool, err error) {
	v, ok := env(key)
	if !ok || v == "" {
		return 0, false, nil
	}
	id, ok = parseID(v)
	if !ok {
		return 0, false, fmt.Errorf("caps: %s is %q, expected a number", key, v)
	}
	return id, true, nil
}

// parseID reads a uid or gid. The largest 32-bit number means "leave it as it
// is" to setresuid(2), so it is none.
func parseID(v string) (int, bool) {
	n, err := strconv.ParseUint(v, 10, 32)
	return int(n), err == nil && n != 1<<32-1
}

// groupOf is the primary group of a user, or nobody's: a number that happens to
// be the same may belong to a group that owns something.
func groupOf(uid int, host accounts) int {
	if gid, ok := host.primaryGroup(uid); ok {
		return gid
	}
	return NobodyID
}

// hostAccounts reads /etc/passwd and /etc/group.
type hostAccounts struct{}

func (h hostAccounts) user(name string) (uid, gid int, err error) {
	if uid, ok := parseID(name); ok {
		return uid, groupOf(uid, h), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("caps: user %q, expected a number or a name of this host: %w", name, err)
	}
	uid, okUID := parseID(u.Uid)
	gid, okGID := parseID(u.Gid)
	if !okUID || !okGID {
		return 0, 0, fmt.Errorf("caps: user %q has ids %q and %q, expected numbers", name, u.Uid, u.Gid)
	}
	return uid, gid, nil
}

func (hostAccounts) group(name string) (int, error) {
	if gid, ok := parseID(name); ok {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("caps: group %q, expected a number or a name of this host: %w", name, err)
	}
	gid, ok := parseID(g.Gid)
	if !ok {
		return 0, fmt.Errorf("caps: group %q has id %q, expected a number", name, g.Gid)
	}
	return gid, nil
}

func (hostAccounts) primaryGroup(uid int) (int, bool) {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return 0, false
	}
	return parseID(u.Gid)
}
