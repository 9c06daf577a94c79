package procfs

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Listener returns the inode of the TCP socket that listens on a in the network
// namespace of process pid, whichever family it was made in. ENOENT: none does.
//
// /proc/net/tcp lists listening sockets first (tcp_seq_start in
// net/ipv4/tcp_ipv4.c), so the reading ends with the last of them however many
// connections there are.
func Listener(pid int, a netip.AddrPort) (inode uint64, err error) {
	for _, name := range []string{"tcp", "tcp6"} {
		inode, err := listenerIn(fmt.Sprintf("/proc/%d/net/%s", pid, name), a)
		if err != nil || inode != 0 {
			return inode, err
		}
	}
	return 0, unix.ENOENT
}

func listenerIn(name string, a netip.AddrPort) (uint64, error) {
	f, err := os.Open(name)
	if os.IsNotExist(err) {
		return 0, nil // a kernel without this family
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Scan() // the header
	for s.Scan() {
		local, listening, inode, err := parseTCPLine(s.Text())
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		if !listening {
			return 0, nil
		}
		if local == a {
			return inode, nil
		}
	}
	return 0, s.Err()
}

// parseTCPLine reads the local address, the state and the inode of one line.
func parseTCPLine(line string) (local netip.AddrPort, listening bool, inode uint64, err error) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return local, false, 0, fmt.Errorf("%d fields, expected 10 or more", len(f))
	}
	if local, err = parseHexAddr(f[1]); err != nil {
		return local, false, 0, err
	}
	inode, err = strconv.ParseUint(f[9], 10, 64)
	return local, f[3] == "0A", inode, err
}

// parseHexAddr reads an address as the kernel prints it: words of 32 bits in
// host order, then the port.
func parseHexAddr(s string) (netip.AddrPort, error) {
	addr, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	if err != nil || (len(b) != 4 && len(b) != 16) {
		return netip.AddrPort{}, fmt.Errorf("address %q", s)
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q", s)
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}
