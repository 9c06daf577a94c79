package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// prSetPtracer lets everybody of the same user trace this process, where Yama
// would otherwise allow only ancestors.
const prSetPtracer = 0x59616d61

// hello is what a victim says of itself.
type hello struct {
	Prey
	Reuse string `json:"reuse"` // its listener with SO_REUSEPORT
	keep  net.Listener
}

// victim is a process outside of the sandbox that can be harmed. It reports
// each signal that it gets, and ends with its standard input.
func victim(file, server string) int {
	signals := make(chan os.Signal, 256)
	var all []os.Signal
	for s := syscall.Signal(1); s < 65; s++ {
		if s != syscall.SIGURG && s != syscall.SIGKILL && s != syscall.SIGSTOP && s != syscall.SIGPIPE {
			all = append(all, s)
		}
	}
	signal.Notify(signals, all...)
	unix.Prctl(prSetPtracer, ^uintptr(0), 0, 0, 0)
	secret := fmt.Sprintf("memory-of-%d-%d", os.Getpid(), time.Now().UnixNano())
	var mem heap
	h := hello{Prey: Prey{PID: os.Getpid(), Addr: uint64(mem.put([]byte(secret))), Len: len(secret), Secret: secret, File: -1, Socket: -1}}
	if file != "-" {
		if err := h.hold(file, server); err != nil {
			fmt.Fprintln(os.Stderr, "victim:", err)
			return 1
		}
	}
	b, err := json.Marshal(h)
	if err != nil {
		return 1
	}
	fmt.Printf("%s\n", b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			fmt.Printf("echo %s\n", in.Text()) // everything before it has been said
		}
	}()
	for {
		select {
		case s := <-signals:
			fmt.Printf("signal %s\n", unix.SignalName(s.(syscall.Signal)))
		case <-done:
			runtime.KeepAlive(&mem)
			runtime.KeepAlive(&h)
			return 0
		}
	}
}

// hold opens what can be taken from a victim: a secret file, a connection, and
// a port that it would share with its own user.
func (h *hello) hold(file, server string) error {
	var err error
	if h.File, err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	ap := parse(server)
	if h.Socket, err = socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err := unix.Connect(h.Socket, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}); err != nil {
		return err
	}
	if _, err := unix.Write(h.Socket, []byte(victimWord+"\n")); err != nil {
		return err
	}
	if _, err := unix.Read(h.Socket, make([]byte, 256)); err != nil {
		return err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.Reuse, h.keep = l.Addr().String(), l
	return nil
}

// victimWord is what the victim says on its connection, so that the server does
// not take it for an attack.
const victimWord = "victim"
