package procfs

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// socketLists are the files that list the sockets of a protocol.
var socketLists = map[int][]string{
	unix.IPPROTO_TCP: {"tcp", "tcp6"}, unix.IPPROTO_UDP: {"udp", "udp6"}, unix.IPPROTO_UDPLITE: {"udplite", "udplite6"},
}

// Sender finds the process among pids that holds the socket of a protocol
// (IPPROTO_*) with the local address; it looks in the network namespace of the
// first of them. A socket that is not bound to one address is known by its port.
// ENOENT: it is gone, or is none of theirs.
func Sender(pids []int, protocol int, local netip.AddrPort) (pid int, err error) {
	if len(pids) == 0 || local.Port() == 0 {
		return 0, unix.ENOENT
	}
	for _, list := range socketLists[protocol] {
		inode, err := socketOn(fmt.Sprintf("/proc/%d/net/%s", pids[0], list), local)
		if err != nil || inode == 0 {
			continue
		}
		for _, pid := range pids {
			if holds(pid, inode) {
				return pid, nil
			}
		}
	}
	return 0, unix.ENOENT
}

func socketOn(file string, local netip.AddrPort) (inode uint64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Scan() // the header
	for s.Scan() {
		a, _, inode, err := parseTCPLine(s.Text())
		if err == nil && a.Port() == local.Port() && (a.Addr() == local.Addr() || a.Addr().IsUnspecified()) {
			return inode, nil
		}
	}
	return 0, s.Err()
}

// holds says whether a process has a descriptor for the socket.
func holds(pid int, inode uint64) bool {
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return false
	}
	want := fmt.Sprintf("socket:[%d]", inode)
	for _, n := range names {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, n.Name())); err == nil && strings.TrimSpace(to) == want {
			return true
		}
	}
	return false
}
