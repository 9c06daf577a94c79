package attack

import (
	"encoding/binary"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fSetOwn   = 8
	fSetOwnEx = 15
	fSetSig   = 10
)

// signalsOut sends signals to the victim by every call that takes a process id.
// Its own word decides: each call may report success and deliver nothing.
func signalsOut(a *agent) {
	pid := uintptr(a.Victim.PID)
	info := func(sig uint32) uintptr {
		b, at := a.heap.alloc(128)
		binary.NativeEndian.PutUint32(b, sig)
		code := int32(-1) // SI_QUEUE
		binary.NativeEndian.PutUint32(b[8:], uint32(code))
		return at
	}
	usr := uintptr(unix.SIGUSR1)
	for _, v := range []struct {
		name string
		args []uintptr
	}{
		{"kill", []uintptr{unix.SYS_KILL, pid, usr}},
		{"kill_high_bits", []uintptr{unix.SYS_KILL, pid | high, usr | high}},
		{"kill_group", []uintptr{unix.SYS_KILL, -pid, usr}},
		{"tkill", []uintptr{unix.SYS_TKILL, pid, usr}},
		{"tgkill", []uintptr{unix.SYS_TGKILL, pid, pid, usr}},
		{"sigqueue", []uintptr{unix.SYS_RT_SIGQUEUEINFO, pid, usr, info(uint32(usr))}},
		{"tgsigqueue", []uintptr{unix.SYS_RT_TGSIGQUEUEINFO, pid, pid, usr, info(uint32(usr))}},
		{"supervisor", []uintptr{unix.SYS_KILL, uintptr(a.Holder.PID), 0}},
		{"guard", []uintptr{unix.SYS_KILL, uintptr(a.Guard), 0}},
	} {
		a.try(v.name, func() error {
			_, err := call(v.args[0], v.args[1:]...)
			return err
		})
	}
	for name, target := range map[string]int{"pidfd": a.Victim.PID, "pidfd_supervisor": a.Holder.PID} {
		a.try(name, func() error {
			fd, err := unix.PidfdOpen(target, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			sig := unix.SIGUSR1
			if target != a.Victim.PID {
				sig = 0
			}
			return unix.PidfdSendSignal(fd, sig, nil, 0)
		})
	}
}

// signalsByIO lets the kernel send the signal, when something happens to a
// descriptor that names the victim as its owner.
func signalsByIO(a *agent) {
	for _, v := range []struct {
		name string
		own  func(fd int) error
	}{
		{"owner", func(fd int) error { _, err := unix.FcntlInt(uintptr(fd), fSetOwn, a.Victim.PID); return err }},
		{"owner_group", func(fd int) error { _, err := unix.FcntlInt(uintptr(fd), fSetOwn, -a.Victim.PID); return err }},
		{"owner_thread", func(fd int) error {
			ex := binary.NativeEndian.AppendUint32(number(0), uint32(a.Victim.PID))
			_, err := call(unix.SYS_FCNTL, uintptr(fd), fSetOwnEx, a.heap.put(ex))
			return err
		}},
		{"owner_by_ioctl", func(fd int) error {
			_, err := call(unix.SYS_IOCTL, uintptr(fd), 0x8901 /* FIOSETOWN */, a.heap.put(number(uint32(a.Victim.PID))))
			return err
		}},
		{"other_signal", func(fd int) error {
			if _, err := unix.FcntlInt(uintptr(fd), fSetOwn, a.Victim.PID); err != nil {
				return err
			}
			_, err := unix.FcntlInt(uintptr(fd), fSetSig, int(unix.SIGUSR2))
			return err
		}},
	} {
		a.try(v.name, func() error {
			if _, err := a.tell("forget"); err != nil {
				return err
			}
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return faultf("socketpair: %w", err)
			}
			defer unix.Close(p[0])
			defer unix.Close(p[1])
			if err := v.own(p[0]); err != nil {
				return err
			}
			if _, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETFL, unix.O_ASYNC|unix.O_NONBLOCK); err != nil {
				return err
			}
			if _, err := unix.Write(p[1], []byte{1}); err != nil {
				return faultf("write: %w", err)
			}
			got, err := a.tell("signal")
			switch {
			case err != nil:
				return err
			case got == "":
				return &refusal{wordSilent, ""}
			}
			return foundf("the victim got %s", got)
		})
	}
}

// signalEverybody signals all that may be signalled, with one that is ignored
// by whoever does not ask for it. Unsandboxed only the victim's group gets it.
func signalEverybody(a *agent) {
	a.try("all", func() error {
		if _, err := a.tell("forget"); err != nil {
			return err
		}
		signal.Ignore(unix.SIGWINCH)
		target := -1
		if !a.Inside {
			target = -a.Victim.PID
		}
		if err := unix.Kill(target, unix.SIGWINCH); err != nil {
			return err
		}
		got, err := a.tell("signal")
		switch {
		case err != nil:
			return err
		case got == "":
			return &refusal{wordSilent, ""}
		}
		return foundf("the victim got %s", got)
	})
}

// signalsKept makes notified calls under a storm of signals. Each has to come
// back whole: no EINTR, no other error, no second socket.
func signalsKept(a *agent) {
	a.storm("storm", unix.SIGUSR1)
	a.storm("preemption", unix.SIGURG) // what the Go runtime sends to its own threads
}

func (a *agent) storm(name string, sig unix.Signal) {
	a.try(name, func() error {
		c := make(chan os.Signal, 64)
		signal.Notify(c, unix.SIGUSR1, unix.SIGUSR2)
		defer signal.Stop(c)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid, pid := unix.Gettid(), unix.Getpid()
		var stop atomic.Bool
		var sent atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			for !stop.Load() {
				unix.Tgkill(pid, tid, sig)
				sent.Add(1)
				for end := time.Now().Add(20 * time.Microsecond); time.Now().Before(end); {
					runtime.Gosched()
				}
			}
		}()
		const rounds = 2000
		before := descriptors()
		var err error
		for i := 0; i < rounds && err == nil; i++ {
			err = a.wholeConnect()
		}
		stop.Store(true)
		<-done
		if err != nil {
			return err
		}
		if after := descriptors(); after > before {
			return &refusal{"doubled", ""}
		}
		return foundf("%d connects under %d signals", rounds, sent.Load())
	})
}

func (a *agent) wholeConnect() error {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err := a.connect(fd, sockaddr(parse(a.Proxy))); err != nil {
		return err
	}
	_, err = unix.Getpeername(fd)
	return err
}

func descriptors() int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(d)
}

func signalVictim(a *agent) error {
	_, err := call(unix.SYS_KILL, uintptr(a.Victim.PID), uintptr(unix.SIGUSR1))
	return err
}
