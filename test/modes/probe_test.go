package modes

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A probe is what runs inside: it tries one thing and says "ok", or the errno or
// the word that it was answered with.
var probes = map[string]func(args []string) error{
	"tcp":       probeTCP,
	"udp":       probeUDP,
	"abstract":  probeAbstract,
	"signal":    probeSignal,
	"escape":    probeEscape,
	"proxied":   probeProxied,
	"captured":  probeCaptured,
	"loopback":  probeLoopback,
	"published": probePublished,
	"unix":      probeUnix,
	"files":     probeFiles,
	"network":   probeNetwork,
	"address":   probeAddress,
}

// next parts what several probes said.
const next = "next:\n"

// several is the command of a sandbox that runs probes one after the other.
func several(exe string, each ...[]string) []string {
	c := []string{exe, "probe", "several"}
	for _, args := range each {
		c = append(append(c, args...), "--")
	}
	return c
}

// severally runs them, and says next after each.
func severally(args []string) int {
	for len(args) > 0 {
		end := slices.Index(args, "--")
		probe(args[0], args[1:end])
		fmt.Print(next)
		args = args[end+1:]
	}
	return 0
}

func probe(name string, args []string) int {
	if name == "several" {
		return severally(args)
	}
	err := probes[name](args)
	var errno unix.Errno
	switch {
	case err == nil:
		fmt.Println("ok")
		return 0
	case errors.As(err, &errno):
		fmt.Println(unix.ErrnoName(errno))
	default:
		fmt.Println(err)
	}
	return 1
}

const patience = 30 * time.Second

// probeTCP sends args[1] to the server at args[0], past the proxy, and wants it
// back.
func probeTCP(args []string) error {
	c, err := net.DialTimeout("tcp", args[0], patience)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "%s\n", args[1]); err != nil {
		return err
	}
	return echoed(c, args[1])
}

func echoed(r io.Reader, want string) error {
	got, err := bufio.NewReader(r).ReadString('\n')
	if strings.TrimSpace(got) != want {
		return errors.Join(errors.New("other answer"), err)
	}
	return nil
}

func probeUDP(args []string) error {
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(args[1]))
	return err
}

func probeAbstract(args []string) error {
	c, err := net.Dial("unix", "@"+args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = fmt.Fprintf(c, "%s\n", args[0])
	return err
}

// probeSignal signals a process outside: signal 0 asks whether it could.
func probeSignal(args []string) error {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return unix.Kill(pid, 0)
}

// probeEscape tries the ways of a container escape that a capability over the
// namespaces would open; one that works is enough.
func probeEscape(args []string) error {
	var last error
	for _, file := range []string{"/proc/" + args[0] + "/ns/net", "/proc/" + args[0] + "/ns/user"} {
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, 0)
			unix.Close(fd)
		}
		if last = err; err == nil {
			return nil
		}
	}
	for _, try := range []func() error{
		func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
		func() error { return unix.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNET) },
		func() error { return unix.Chroot("/") },
		func() error { return unix.Setuid(0) },
	} {
		if last = try(); last == nil {
			return nil
		}
	}
	return last
}

func fetch(c *http.Client, from string) error {
	c.Timeout = patience
	r, err := c.Get(from)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusOK || string(b) != page {
		return fmt.Errorf("status %d", r.StatusCode)
	}
	return nil
}

// page is what the allowed server answers.
const page = "the allowed page"

func probeProxied(args []string) error {
	u, err := url.Parse(os.Getenv("HTTP_PROXY"))
	if err != nil {
		return err
	}
	return fetch(&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u)}}, args[0])
}

// probeCaptured knows no proxy: it looks the name up and connects.
func probeCaptured(args []string) error {
	return fetch(&http.Client{Transport: &http.Transport{Proxy: nil}}, args[0])
}

func probeLoopback([]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	go serveEcho(l)
	return probeTCP([]string{l.Addr().String(), "hello"})
}

func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// probePublished serves until somebody has been answered.
func probePublished(args []string) error {
	l, err := net.Listen("tcp4", args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(c, c)
	return err
}

func probeUnix(args []string) error {
	c, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	return echoed(c, "hello")
}

// probeFiles writes where it may and finds that it may not elsewhere.
func probeFiles(args []string) error {
	if err := os.WriteFile("mine", []byte("x"), 0o600); err != nil {
		return err
	}
	if _, err := os.ReadFile(args[0]); !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("reading %s: %v, expected EACCES", args[0], err)
	}
	return nil
}

// probeNetwork prints the network namespace and the interfaces.
func probeNetwork([]string) error {
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	fmt.Print(ns)
	for _, i := range all {
		fmt.Print(" ", i.Name)
	}
	fmt.Println()
	return nil
}

// probeAddress says where the proxy is, and waits until standard input ends.
func probeAddress([]string) error {
	fmt.Println(os.Getenv("HTTP_PROXY"))
	io.Copy(io.Discard, os.Stdin)
	return nil
}
