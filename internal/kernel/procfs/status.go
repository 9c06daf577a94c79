package procfs

import (
	"bytes"
	"errors"

	"golang.org/x/sys/unix"
)

// IDs are the four identities that a thread has for users or for groups.
type IDs struct{ Real, Effective, Saved, FS uint32 }

// ThreadStatus is what /proc/TID/status says about one thread. A capability
// set has bit N set for capability N of capabilities(7).
type ThreadStatus struct {
	Tgid, Pid, PPid int
	UID, GID        IDs
	Groups          []uint32
	Umask           uint32 // 0 when the thread has no file system state any more
	Threads         int

	CapInh, CapPrm, CapEff, CapBnd, CapAmb uint64

	NoNewPrivs     bool
	Seccomp        int // 0 none, 1 strict, 2 filter; -1 when the kernel does not say
	SeccompFilters int // count of installed filters; -1 when the kernel does not say (before 5.9)
}

// statusLimit bounds the size of /proc/TID/status. 65,536 supplementary groups
// (NGROUPS_MAX) of ten digits are the longest part of it.
const statusLimit = 1 << 20

// Status reads /proc/TID/status. It costs several times what [Stat] does.
func Status(tid int) (ThreadStatus, error) {
	var buf [4096]byte
	n, err := readProc(tid, "/status", buf[:])
	if err == nil {
		return parseStatus(buf[:n])
	}
	for size := 8 * len(buf); size <= statusLimit && errors.Is(err, unix.EMSGSIZE); size *= 8 {
		big := make([]byte, size)
		if n, err = readProc(tid, "/status", big); err == nil {
			return parseStatus(big[:n])
		}
	}
	return ThreadStatus{}, err
}

// Tgid returns the thread group that tid belongs to.
func Tgid(tid int) (int, error) {
	s, err := Status(tid)
	return s.Tgid, err
}

// statusSeen has a bit for each line without which an answer is not usable.
type statusSeen uint

const (
	seenTgid statusSeen = 1 << iota
	seenPid
	seenPPid
	seenUID
	seenGID
	seenGroups
	seenThreads
	seenCaps // first of five bits, one for each set
	seenAll  = seenCaps<<5 - 1
)

// parseStatus reads the lines "Key:\tvalue". Unknown keys are left alone, so a
// newer kernel does no harm; a missing identity or capability set is an error.
func parseStatus(b []byte) (ThreadStatus, error) {
	s := ThreadStatus{Seccomp: -1, SeccompFilters: -1}
	var seen statusSeen
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte{'\n'})
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		got, ok := s.set(key, bytes.TrimSpace(value))
		if !ok || seen&got != 0 {
			return ThreadStatus{}, ErrMalformed
		}
		seen |= got
	}
	if seen != seenAll {
		return ThreadStatus{}, ErrMalformed
	}
	return s, nil
}

// set stores one line. ok is false when a known key has a value that is none.
func (s *ThreadStatus) set(key, v []byte) (seen statusSeen, ok bool) {
	switch string(key) {
	case "Tgid":
		return seenTgid, setInt(&s.Tgid, v)
	case "Pid":
		return seenPid, setInt(&s.Pid, v)
	case "PPid":
		return seenPPid, setInt(&s.PPid, v)
	case "Threads":
		return seenThreads, setInt(&s.Threads, v)
	case "Uid":
		return seenUID, setIDs(&s.UID, v)
	case "Gid":
		return seenGID, setIDs(&s.GID, v)
	case "Groups":
		s.Groups, ok = numbers(v, nil)
		return seenGroups, ok
	case "CapInh":
		return seenCaps, setHex(&s.CapInh, v)
	case "CapPrm":
		return seenCaps << 1, setHex(&s.CapPrm, v)
	case "CapEff":
		return seenCaps << 2, setHex(&s.CapEff, v)
	case "CapBnd":
		return seenCaps << 3, setHex(&s.CapBnd, v)
	case "CapAmb":
		return seenCaps << 4, setHex(&s.CapAmb, v)
	case "NoNewPrivs":
		s.NoNewPrivs = string(v) == "1"
		return 0, s.NoNewPrivs || string(v) == "0"
	case "Seccomp":
		return 0, setInt(&s.Seccomp, v)
	case "Seccomp_filters":
		return 0, setInt(&s.SeccompFilters, v)
	case "Umask":
		return 0, setOctal(&s.Umask, v)
	}
	return 0, true
}

func setInt(to *int, v []byte) bool {
	n, ok := whole(v)
	*to = int(n)
	return ok && n <= 1<<31
}

func setIDs(to *IDs, v []byte) bool {
	var four [4]uint32
	ids, ok := numbers(v, four[:0])
	if !ok || len(ids) != 4 {
		return false
	}
	*to = IDs{ids[0], ids[1], ids[2], ids[3]}
	return true
}

// numbers appends the blank-separated 32-bit numbers of v to list.
func numbers(v []byte, list []uint32) ([]uint32, bool) {
	for v = bytes.TrimLeft(v, " \t"); len(v) > 0; v = bytes.TrimLeft(v, " \t") {
		n, rest, ok := decimal(v)
		if !ok || n > 1<<32-1 || (len(rest) > 0 && rest[0] != ' ' && rest[0] != '\t') {
			return nil, false
		}
		list = append(list, uint32(n))
		v = rest
	}
	return list, true
}

func setHex(to *uint64, v []byte) bool {
	if len(v) == 0 || len(v) > 16 {
		return false
	}
	var n uint64
	for _, c := range v {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return false
		}
	}
	*to = n
	return true
}

func setOctal(to *uint32, v []byte) bool {
	if len(v) == 0 || len(v) > 6 {
		return false
	}
	var n uint32
	for _, c := range v {
		if c < '0' || c > '7' {
			return false
		}
		n = n<<3 | uint32(c-'0')
	}
	*to = n
	return true
}
