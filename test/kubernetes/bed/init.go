package bed

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// statusBroken is the exit status of a cluster that failed itself.
const statusBroken = 97

// Enter turns this process into the cluster's first process, if that is what
// it was started for, and never returns then. Call it first thing in main.
func Enter() {
	file := os.Getenv(initVariable)
	if file == "" || os.Getpid() != 1 {
		return
	}
	os.Unsetenv(initVariable)
	signal.Ignore(syscall.SIGINT) // a terminal's ctrl-c is for the command
	status, err := runInit(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = statusBroken
	}
	os.Exit(status)
}

// node is the cluster while it runs.
type node struct {
	spec
	runtime Runtime
	began   time.Time
	died    chan string // a daemon that ended
	client  *http.Client
	loaded  chan error // how loading the images went
}

func runInit(file string) (int, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n := &node{began: time.Now(), died: make(chan string, 16)}
	if err := json.Unmarshal(raw, &n.spec); err != nil {
		return 0, err
	}
	if n.runtime, err = n.Cache.Runtime(n.spec.Runtime); err != nil {
		return 0, err
	}
	for _, step := range []func() error{mounts, n.imageStore, n.network, n.path, n.controlPlane, n.join} {
		if err := step(); err != nil {
			return 0, errors.Join(err, n.evidence())
		}
	}
	return n.command()
}

func (n *node) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bed: %5.1f s  %s\n", time.Since(n.began).Seconds(), fmt.Sprintf(format, args...))
}

// mounts hides what a node writes outside its own directories.
func mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("bed: making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("bed: mounting /proc: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("bed: mounting %s: %w", dir, err)
		}
	}
	return nil
}

// roomForImages is how much free memory makes a store of images in memory safe,
// in KiB: the images of a test need less than one sixth of it.
const roomForImages = 6 << 20

// imageStore keeps images in memory where there is enough of it: a disk takes
// twenty seconds to write what is thrown away a minute later.
func (n *node) imageStore() error {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("bed: %w", err)
	}
	_, rest, _ := strings.Cut(string(raw), "MemAvailable:")
	var free int
	if _, err := fmt.Sscan(rest, &free); err != nil || free < roomForImages {
		return nil
	}
	if err := unix.Mount("tmpfs", n.Dirs.path("containerd/root"), "tmpfs", 0, "mode=0711"); err != nil {
		return fmt.Errorf("bed: mounting the image store: %w", err)
	}
	return nil
}

// network gives the node an address that is not a loopback one; pods get
// their links from the CNI plugin.
func (n *node) network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("bed: network: %w", err)
	}
	addr, err := netlink.ParseAddr(NodeAddress + "/32")
	if err != nil {
		return err
	}
	_, services, err := net.ParseCIDR(ServiceCIDR)
	if err != nil {
		return err
	}
	err = errors.Join(
		netlink.LinkSetUp(lo),
		netlink.AddrAdd(lo, addr),
		// a route must exist before kube-proxy's rules see a packet
		netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: services, Src: addr.IP}),
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
	)
	if err != nil {
		return fmt.Errorf("bed: network: %w", err)
	}
	return n.serveDNS()
}

// path makes kubectl and the run's own runc and ctr the first to be found.
func (n *node) path() error {
	dirs := []string{n.Cache.KubernetesDir(), n.Cache.DebianDir(), n.runtime.Shim, filepath.Dir(n.runtime.Runc), "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"}
	return errors.Join(os.Setenv("PATH", strings.Join(dirs, ":")), os.Setenv("KUBECONFIG", n.Dirs.Kubeconfig()))
}

// daemon starts a process that is to live as long as the cluster.
func (n *node) daemon(name string, args ...string) error {
	log, err := os.Create(n.Dirs.logFile(filepath.Base(name)))
	if err != nil {
		return fmt.Errorf("bed: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("bed: starting %s: %w", name, err)
	}
	go func() {
		err := cmd.Wait()
		n.died <- fmt.Sprintf("%s ended: %v", filepath.Base(name), err)
	}()
	return nil
}

// until polls a condition of the cluster: it has no way to tell us.
func (n *node) until(what string, limit time.Duration, ok func() bool) error {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if ok() {
			n.say("%s", what)
			return nil
		}
		select {
		case who := <-n.died:
			return fmt.Errorf("bed: waiting for: %s: %s", what, who)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("bed: waiting for: %s: not within %v", what, limit)
}

// command runs what the cluster was made for.
func (n *node) command() (int, error) {
	cmd := exec.Command(n.Command[0], n.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(append(os.Environ(), "SALLYPORT_BED="+string(n.Dirs)), n.Env...)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("bed: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case who := <-n.died:
		cmd.Process.Kill()
		return 0, errors.Join(fmt.Errorf("bed: %s", who), n.evidence())
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return 0, err
		}
		n.say("command ended with status %d", cmd.ProcessState.ExitCode())
		return cmd.ProcessState.ExitCode(), nil
	}
}

// evidence is the end of each log, as an error.
func (n *node) evidence() error {
	var b strings.Builder
	logs, _ := filepath.Glob(n.Dirs.logFile("*"))
	for _, l := range logs {
		raw, _ := os.ReadFile(l)
		fmt.Fprintf(&b, "--- %s\n%s\n", filepath.Base(l), tail(string(raw), 12))
	}
	return errors.New(b.String())
}
