package procfs

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// Tasks returns the threads of the process pid in ascending order.
func Tasks(pid int) ([]int, error) {
	var p name
	p.of(pid, "/task")
	return numbered(&p)
}

// Children returns the child processes of pid, of all its threads. The list is
// exact only for a process that stands still; one that forks and dies meanwhile
// can hide a child, so a caller that must find all of them asks until nothing
// new appears.
func Children(pid int) ([]int, error) {
	tasks, err := Tasks(pid)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, tid := range tasks {
		list, err := taskChildren(pid, tid)
		switch {
		case err == nil:
			all = append(all, list...)
		case !Gone(err):
			return nil, err
		case tid == pid:
			// The process is there but the file is not: a kernel built
			// without CONFIG_PROC_CHILDREN, or the process died just now.
			return childrenByScan(pid)
		}
	}
	slices.Sort(all)
	return all, nil
}

// Descendants returns the children of pid, theirs, and so on, each process
// after its parent, without pid itself. Processes that die meanwhile are left
// out; what [Children] says about completeness holds here too.
func Descendants(pid int) ([]int, error) {
	queue, err := Children(pid)
	if err != nil {
		return nil, err
	}
	var all []int
	seen := map[int]bool{pid: true} // a number may be given away and come back
	for ; len(queue) > 0; queue = queue[1:] {
		one := queue[0]
		if seen[one] {
			continue
		}
		seen[one] = true
		all = append(all, one)
		below, err := Children(one)
		if err != nil && !Gone(err) {
			return nil, err
		}
		queue = append(queue, below...)
	}
	return all, nil
}

// taskChildren reads /proc/PID/task/TID/children: numbers, each followed by a
// blank. An empty file means no children.
func taskChildren(pid, tid int) ([]int, error) {
	var p name
	p.of(pid, "/task/")
	p.number(tid)
	p.text("/children")
	fd, err := openName(&p, unix.O_RDONLY)
	if err != nil {
		return nil, fault(&p, err)
	}
	defer unix.Close(fd)
	var text []byte
	var buf [4096]byte
	for {
		n, err := readFD(fd, buf[:])
		if err != nil {
			return nil, fault(&p, err)
		}
		if n == 0 {
			return parseChildren(text)
		}
		text = append(text, buf[:n]...)
	}
}

func parseChildren(b []byte) ([]int, error) {
	var list []int
	for b = bytes.TrimLeft(b, " \n"); len(b) > 0; b = bytes.TrimLeft(b, " \n") {
		n, rest, ok := decimal(b)
		if !ok || n > 1<<31 || len(rest) == 0 || rest[0] != ' ' {
			return nil, ErrMalformed
		}
		list = append(list, int(n))
		b = rest
	}
	return list, nil
}

// childrenByScan looks at every process of the machine.
func childrenByScan(pid int) ([]int, error) {
	if _, err := Stat(pid); err != nil {
		return nil, err
	}
	var p name
	p.text("/proc")
	all, err := numbered(&p)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, one := range all {
		s, err := Stat(one)
		switch {
		case err == nil && s.PPID == pid:
			list = append(list, one)
		case err != nil && !Gone(err) && !errors.Is(err, unix.EACCES):
			return nil, err
		}
	}
	return list, nil
}

// numbered lists the entries of a directory whose names are numbers, in order.
func numbered(p *name) ([]int, error) {
	fd, err := openName(p, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fault(p, err)
	}
	defer unix.Close(fd)
	var list []int
	var buf [8192]byte
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		if err != nil {
			return nil, fault(p, err)
		}
		if n <= 0 {
			break
		}
		for b := buf[:n]; len(b) > 0; {
			var k int
			k, _, names = unix.ParseDirent(b, -1, names[:0])
			b = b[k:]
			for _, s := range names {
				if v, ok := whole([]byte(s)); ok && v <= 1<<31 {
					list = append(list, int(v))
				}
			}
		}
	}
	slices.Sort(list)
	return list, nil
}
