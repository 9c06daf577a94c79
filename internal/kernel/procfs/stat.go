package procfs

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Thread is what /proc/TID/stat says about one thread.
type Thread struct {
	TID   int
	PPID  int    // thread group of the parent; 0 for the first process and for a parent outside the PID namespace
	State byte   // one letter of proc(5): R, S, D, Z, T, t, X, I
	Start uint64 // ticks of the clock (sysconf(_SC_CLK_TCK)) from boot to the start of the thread
	Comm  string // chosen by the process itself: to be shown, never trusted
}

// Stat reads /proc/TID/stat. Together, TID and [Thread.Start] name a thread for
// as long as the machine is up.
func Stat(tid int) (Thread, error) {
	var buf [1024]byte
	n, err := readProc(tid, "/stat", buf[:])
	if err != nil {
		return Thread{}, err
	}
	s, err := parseStat(buf[:n])
	if err == nil && s.TID != tid {
		err = ErrMalformed
	}
	return s, err
}

// parseStat reads the fields that [Thread] has. The second field is the name of
// the program in parentheses and may itself hold parentheses and blanks, so
// the last closing one ends it.
func parseStat(b []byte) (Thread, error) {
	tid, rest, ok := decimal(b)
	end := bytes.LastIndexByte(rest, ')')
	if !ok || tid > 1<<31 || end < 2 || len(rest) < end+5 || rest[0] != ' ' || rest[1] != '(' {
		return Thread{}, ErrMalformed
	}
	s := Thread{TID: int(tid), Comm: string(rest[2:end]), State: rest[end+2]}
	// Fields 4 (ppid) to 22 (starttime) of proc(5), each after one blank.
	rest = rest[end+3:]
	for field := 4; field <= 22; field++ {
		if len(rest) == 0 || rest[0] != ' ' {
			return Thread{}, ErrMalformed
		}
		rest = bytes.TrimPrefix(rest[1:], []byte("-"))
		var v uint64
		if v, rest, ok = decimal(rest); !ok {
			return Thread{}, ErrMalformed
		}
		switch field {
		case 4:
			if v > 1<<31 {
				return Thread{}, ErrMalformed
			}
			s.PPID = int(v)
		case 22:
			s.Start = v
		}
	}
	return s, nil
}

// readProc reads /proc/TID and file into buf with one read. A file that fills
// buf is an error, because its end may be missing.
func readProc(tid int, file string, buf []byte) (int, error) {
	var p name
	p.of(tid, file)
	n, err := readAll(&p, buf)
	if err != nil {
		return 0, fault(&p, err)
	}
	return n, nil
}

// readAll reads p into buf until the end of the file. Most files of /proc come
// with the first read; the second only happens when the first one was cut short.
func readAll(p *name, buf []byte) (int, error) {
	fd, err := openName(p, unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	n, err := readFD(fd, buf)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, unix.ESRCH
	}
	if n == len(buf) {
		return 0, unix.EMSGSIZE
	}
	return n, nil
}
