package caps

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strconv"
)

// Sets are the five capability sets of one thread. Bit N is capability N of
// capabilities(7).
type Sets struct {
	Inheritable uint64 `json:"inheritable"`
	Permitted   uint64 `json:"permitted"`
	Effective   uint64 `json:"effective"`
	Bounding    uint64 `json:"bounding"`
	Ambient     uint64 `json:"ambient"`
}

// Empty reports whether no set has a capability.
func (s Sets) Empty() bool { return s == Sets{} }

// Read returns the sets of the calling thread.
func Read() (Sets, error) {
	t, err := readThread("/proc/thread-self/status")
	return t.sets, err
}

// capNames has the name of each capability, in the order of the kernel's numbers.
var capNames = [...]string{
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
	"setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
	"ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
	"sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
	"lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
	"wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
}

// Names lists the capabilities of a set; one without a name is "cap_N".
func Names(set uint64) []string {
	list := []string{}
	for set != 0 {
		n := bits.TrailingZeros64(set)
		set &^= 1 << n
		if n < len(capNames) {
			list = append(list, capNames[n])
		} else {
			list = append(list, "cap_"+strconv.Itoa(n))
		}
	}
	return list
}

// thread is what /proc says about one thread of this process.
type thread struct {
	uids, gids [4]int // real, effective, saved, file system
	groups     []int
	sets       Sets
	noNewPrivs bool
}

var errStatus = errors.New("caps: malformed /proc/self/status")

func readThread(path string) (thread, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return thread{}, fmt.Errorf("caps: %w", err)
	}
	return parseThread(b)
}

// parseThread reads the lines "Key:\tvalue" that matter; each must be there.
func parseThread(b []byte) (thread, error) {
	var t thread
	fields := map[string]func(string) bool{
		"Uid":        func(v string) bool { return parseFour(&t.uids, v) },
		"Gid":        func(v string) bool { return parseFour(&t.gids, v) },
		"Groups":     func(v string) (ok bool) { t.groups, ok = parseInts(v); return ok },
		"CapInh":     func(v string) bool { return parseSet(&t.sets.Inheritable, v) },
		"CapPrm":     func(v string) bool { return parseSet(&t.sets.Permitted, v) },
		"CapEff":     func(v string) bool { return parseSet(&t.sets.Effective, v) },
		"CapBnd":     func(v string) bool { return parseSet(&t.sets.Bounding, v) },
		"CapAmb":     func(v string) bool { return parseSet(&t.sets.Ambient, v) },
		"NoNewPrivs": func(v string) bool { t.noNewPrivs = v == "1"; return v == "0" || v == "1" },
	}
	for line := range bytes.Lines(b) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		parse, ok := fields[string(key)]
		if !ok {
			continue
		}
		if !parse(string(bytes.TrimSpace(value))) {
			return thread{}, errStatus
		}
		delete(fields, string(key))
	}
	if len(fields) != 0 {
		return thread{}, errStatus
	}
	return t, nil
}

func parseSet(to *uint64, v string) bool {
	n, err := strconv.ParseUint(v, 16, 64)
	*to = n
	return err == nil
}

func parseFour(to *[4]int, v string) bool {
	list, ok := parseInts(v)
	return ok && copy(to[:], list) == 4 && len(list) == 4
}

func parseInts(v string) ([]int, bool) {
	var list []int
	for _, f := range bytes.Fields([]byte(v)) {
		n, err := strconv.ParseUint(string(f), 10, 32)
		if err != nil {
			return nil, false
		}
		list = append(list, int(n))
	}
	return list, true
}
