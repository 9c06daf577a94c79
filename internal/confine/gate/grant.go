package gate

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Grant is a pathname socket of the host that the policy opens to the agent.
type Grant struct {
	path  string // without a symbolic link
	fixed bool   // the agent could put another socket there
	id    fileID // of a fixed one; zero if there was none
}

// Grants makes grants of the paths that a policy lists. writable are the
// directories in which the agent may make, move and remove files. Call it before
// the agent runs: where it could exchange what a path leads to, the socket that
// is there now is granted and no later one.
func Grants(paths, writable []string) []Grant {
	out := make([]Grant, len(paths))
	for i, p := range paths {
		g := Grant{path: straight(p)}
		if g.fixed = below(g.path, writable); g.fixed {
			g.id, _ = g.look()
		}
		out[i] = g
	}
	return out
}

// straight is a path with its symbolic links replaced. A service that is not
// there yet may come, so its directory counts too.
func straight(p string) string {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(p)); err == nil {
		return filepath.Join(dir, filepath.Base(p))
	}
	return p
}

// is says whether the grant is for this socket. One that is not fixed is looked
// up anew: a service that was restarted has a new socket in the same place.
func (g Grant) is(id fileID) bool {
	now := g.id
	if !g.fixed {
		var err error
		if now, err = g.look(); err != nil {
			return false
		}
	}
	return now != fileID{} && now == id
}

// look names what is at the path now. A symbolic link on the way is none of what
// a person has granted.
func (g Grant) look() (fileID, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, g.path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fileID{}, err
	}
	defer unix.Close(fd)
	id, _, err := identify(fd)
	return id, err
}

// below says whether a path is in one of the directories.
func below(p string, dirs []string) bool {
	for _, d := range dirs {
		if p == d || d == "/" || strings.HasPrefix(p, d+"/") {
			return true
		}
	}
	return false
}
