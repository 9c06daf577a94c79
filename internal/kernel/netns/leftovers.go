package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Leftover is a veth pair of a supervisor that is dead. It is there because
// something still lives in the namespace at its other end.
type Leftover struct {
	Name  string `json:"name"`  // of the host's end
	Owner int    `json:"owner"` // process id of the supervisor that made it
	PIDs  []int  `json:"pids"`  // processes that live in the namespace, as far as they can be seen

	nsid int // the number by which this namespace knows the one at the other end
}

// Leftovers lists what dead supervisors left in the caller's network namespace.
// Pairs of living ones, and of supervisors in a PID namespace that is not the
// caller's, are not among them.
func Leftovers() ([]Leftover, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("netns: listing interfaces: %w", err)
	}
	var out []Leftover
	for _, l := range links {
		a := l.Attrs()
		o, ours := parseAlias(a.Alias)
		if !ours || l.Type() != "veth" || !strings.HasPrefix(a.Name, LinkPrefix) {
			continue
		}
		if alive, known := o.alive(); alive || !known {
			continue
		}
		out = append(out, Leftover{a.Name, o.pid, processesOf(a.NetNsID), a.NetNsID})
	}
	return out, nil
}

// processesOf lists the processes of the namespace that this one knows by a
// number. It needs the right to look at each process.
func processesOf(nsid int) []int {
	names, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil || nsid < 0 {
		return nil
	}
	seen := map[string]int{} // a namespace is asked about once
	var out []int
	for _, name := range names {
		ns, err := os.Readlink(name)
		if err != nil {
			continue
		}
		id, known := seen[ns]
		if !known {
			id = numberOf(name)
			seen[ns] = id
		}
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		if err == nil && id == nsid {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

func numberOf(name string) int {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	defer unix.Close(fd)
	id, err := netlink.GetNetNsIdByFd(fd)
	if err != nil {
		return -1
	}
	return id
}

// Remove ends the processes of a leftover and takes its pair down. It needs
// root. A supervisor that came to life again under the same name is left alone.
func Remove(l Leftover) error {
	now, err := Leftovers()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(now, func(o Leftover) bool { return o.Name == l.Name && o.Owner == l.Owner })
	if i < 0 {
		return nil
	}
	for _, pid := range now[i].PIDs {
		if err := end(pid, now[i].nsid); err != nil {
			return fmt.Errorf("netns: ending process %d of %s: %w", pid, l.Name, err)
		}
	}
	link, err := netlink.LinkByName(l.Name)
	if err != nil {
		return nil // gone with the last of its processes
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("netns: removing %s: %w", l.Name, err)
	}
	return nil
}

// end kills a process if it lives in the namespace still: the number could have
// gone to another one, and the pidfd cannot.
func end(pid, nsid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if numberOf(fmt.Sprintf("/proc/%d/ns/net", pid)) != nsid {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
