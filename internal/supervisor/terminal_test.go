package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketFile is a socket as a file that a program can be given.
func socketFile(t *testing.T, fd int, err error) *os.File {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

// TestDatagramSocketIsNoInput: with a datagram socket for its input the agent could
// send to any address, because no call that a filter sees names it.
func TestDatagramSocketIsNoInput(t *testing.T) {
	heard, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	send := fmt.Sprintf("import socket; socket.socket(fileno=0).sendmsg([b'out'], [], 0, ('127.0.0.1', %d))", heard.LocalAddr().(*net.UDPAddr).Port)
	users(t, func(t *testing.T, as *syscall.Credential) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		in := socketFile(t, fd, err)
		if control := exec.Command("python3", "-c", send); errors.Is(control.Err, exec.ErrNotFound) {
			t.Skip("needs python3")
		} else if control.Stdin = in; control.Run() != nil || !arrives(t, heard, aWhile) {
			t.Fatal("the attack does not work outside of a sandbox")
		}
		var out bytes.Buffer
		c := command(t, as, spec{Command: []string{"python3", "-c", send}})
		c.Stdin, c.Stdout, c.Stderr = in, &out, &out
		c.Run() // its status is looked at below
		if c.ProcessState.ExitCode() != ExitRefused || !strings.Contains(out.String(), "standard input") {
			t.Errorf("status %d, expected %d and a sentence about standard input\n%s", c.ProcessState.ExitCode(), ExitRefused, &out)
		}
		if arrives(t, heard, 100*time.Millisecond) {
			t.Error("a datagram of the agent has left the sandbox")
		}
	})
}

// arrives tells whether a datagram has come. On loopback it is there when its send
// returns.
func arrives(t *testing.T, c *net.UDPConn, within time.Duration) bool {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(within))
	_, _, err := c.ReadFrom(make([]byte, 16))
	return err == nil
}

func TestAimless(t *testing.T) {
	pair := func(kind int) func() (int, error) {
		return func() (int, error) {
			p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				unix.Close(p[1])
			}
			return p[0], err
		}
	}
	socket := func(domain, kind, protocol int) func() (int, error) {
		return func() (int, error) { return unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol) }
	}
	for name, c := range map[string]struct {
		open func() (int, error)
		fits bool
	}{
		"unix stream":    {pair(unix.SOCK_STREAM), true},
		"unix packets":   {pair(unix.SOCK_SEQPACKET), true},
		"TCP":            {socket(unix.AF_INET6, unix.SOCK_STREAM, 0), true},
		"file":           {func() (int, error) { return unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0) }, true},
		"unix datagrams": {pair(unix.SOCK_DGRAM), false},
		"UDP":            {socket(unix.AF_INET, unix.SOCK_DGRAM, 0), false},
		"UDP over IPv6":  {socket(unix.AF_INET6, unix.SOCK_DGRAM, 0), false},
		"netlink":        {socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), false},
	} {
		t.Run(name, func(t *testing.T) {
			fd, err := c.open()
			if err := aimless(socketFile(t, fd, err)); (err == nil) != c.fits {
				t.Errorf("aimless = %v, want it to fit: %v", err, c.fits)
			}
		})
	}
}
