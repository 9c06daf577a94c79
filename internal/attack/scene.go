package attack

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/kernel/netns"
)

// scene is everything outside of the sandbox that one run of cases attacks:
// servers, files, processes. A control has a scene of its own, so that what is
// seen in the scene of a sandbox was done by the sandbox.
type scene struct {
	servers
	dir    string
	agent  who
	spec   Spec
	port   uint16 // the proxy's
	origin string // where the allowed origin listens
	naive  net.Listener

	victim, holder *preyProcess
	leak           [2]*os.File // ours, and the one that is left open
	pty            *os.File

	mu      sync.Mutex
	windows []window
	runner  *exec.Cmd // the supervisor's process
	killed  time.Time
	before  map[string]map[string]string // files of each case, as they were
}

// who is the identity of the agent.
type who struct{ uid, gid int }

// window is the time in which a case ran.
type window struct {
	name  string
	start time.Time
}

// preyProcess is a running victim.
type preyProcess struct {
	hello
	cmd   *exec.Cmd
	in    io.WriteCloser
	mu    sync.Mutex
	heard []signalled
	lines chan string
}

type signalled struct {
	name string
	at   time.Time
}

// newScene makes everything below dir. The caller closes it.
func newScene(dir string, exe string, agent who, inside bool, cases []Case) (*scene, error) {
	s := &scene{dir: dir, agent: agent, before: map[string]map[string]string{}}
	token := fmt.Sprintf("attack%d%c", time.Now().UnixNano()%1e12, map[bool]byte{true: 'i', false: 'o'}[inside])
	s.spec = Spec{Inside: inside, Group: agent.gid, Token: token, Exe: exe, Tools: filepath.Dir(exe), Workdir: dir + "/workspace", Outside: dir + "/outside", Leak: leakFD}
	steps := []func() error{
		s.makeDirs, s.makeServers, s.makeBeside, s.makeUnix, s.makeProxy, s.makePreys, s.makeShared, s.makeLeak,
		func() error { return s.makeCases(cases) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			s.close()
			return nil, fmt.Errorf("attack: preparing: %w", err)
		}
	}
	return s, nil
}

func (s *scene) close() {
	if s.naive != nil {
		s.naive.Close()
	}
	for _, p := range []*preyProcess{s.victim, s.holder} {
		if p != nil {
			p.in.Close()
			p.cmd.Wait()
		}
	}
	for _, f := range append(s.leak[:], s.pty) {
		if f != nil {
			f.Close()
		}
	}
	s.servers.close()
	s.removeShared()
	os.RemoveAll(s.dir)
}

// give makes path the agent's.
func (s *scene) give(path string) error { return os.Lchown(path, s.agent.uid, s.agent.gid) }

func (s *scene) makeDirs() error {
	for _, d := range []string{s.spec.Workdir, s.spec.Outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := s.give(d); err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) makeServers() error {
	var err error
	for _, v := range []struct {
		to                     *string
		name, network, address string
	}{
		{&s.spec.TCP4, "tcp4", "tcp4", "127.0.0.1:0"}, {&s.spec.TCP6, "tcp6", "tcp6", "[::1]:0"}, {&s.spec.MPTCP, "mptcp", "tcp4", "127.0.0.1:0"},
	} {
		if *v.to, err = s.tcp(v.name, v.network, v.address); err != nil {
			return err
		}
	}
	if s.spec.UDP4, err = s.udp("udp4", "udp4", "127.0.0.1:0"); err != nil {
		return err
	}
	if s.spec.UDP6, err = s.udp("udp6", "udp6", "[::1]:0"); err != nil {
		return err
	}
	s.spec.Lite = s.lite()
	own, linked := hostAddresses()
	for _, a := range own {
		if at, err := s.tcp("own address", "tcp", net.JoinHostPort(a, "0")); err == nil {
			s.spec.Own = append(s.spec.Own, at)
		}
	}
	if linked != "" {
		s.spec.Linked, _ = s.tcp("link-local address", "tcp", net.JoinHostPort(linked, "0"))
	}
	s.origin, err = s.servers.origin()
	return err
}

// hostAddresses gives the host's own addresses, and one link-local address
// with its zone.
func hostAddresses() (own []string, linked string) {
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		// What a killed supervisor has left is about to be taken by the next one.
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || strings.HasPrefix(i.Name, netns.LinkPrefix) {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			n, is := a.(*net.IPNet)
			switch {
			case !is:
			case n.IP.IsLinkLocalUnicast() && n.IP.To4() == nil:
				linked = n.IP.String() + "%" + i.Name
			case n.IP.IsGlobalUnicast() && len(own) < 4:
				own = append(own, n.IP.String())
			}
		}
	}
	return own, linked
}

// makeBeside chooses the proxy's port and listens on it everywhere but where
// the proxy will.
func (s *scene) makeBeside() error {
	for range 20 {
		// below the ports of the default range that the kernel gives away by itself
		// (ip_local_port_range): nobody takes it between here and the proxy's start
		s.port = uint16(20000 + rand.N(12000))
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err != nil {
			continue
		}
		l.Close()
		if err := s.beside(); err == nil {
			return nil
		}
	}
	return errors.New("no port is free on every loopback address")
}

func (s *scene) beside() error {
	s.spec.Beside = nil
	hosts := []string{"127.0.0.2", "::1"}
	for _, o := range s.spec.Own {
		hosts = append(hosts, parse(o).Addr().String())
	}
	for _, h := range hosts {
		at, err := s.tcp("proxy's port on "+h, "tcp", net.JoinHostPort(h, itoa(int(s.port))))
		if err != nil {
			return err
		}
		s.spec.Beside = append(s.spec.Beside, at)
	}
	return nil
}

func (s *scene) makeUnix() error {
	u, err := s.servers.unix(s.dir, s.spec.Token)
	s.spec.Unix = u
	for _, p := range []string{u.Stream, u.Datagram, u.Packet} {
		if err == nil {
			err = s.give(p)
		}
	}
	return err
}

// The names that the policy knows.
const (
	originName = "origin.attack.test"
	toolName   = "tool.attack.test"
	selfName   = "self.attack.test"
)

// makeProxy starts the proxy without rules for a control. Inside the
// supervisor's own proxy takes its place.
func (s *scene) makeProxy() error {
	s.spec.Origin, s.spec.ToolAt = originName+":80", toolName+":80"
	for name := range refusedNames {
		port := itoa(int(parse(s.spec.TCP4).Port()))
		if name == "loop6" {
			port = itoa(int(parse(s.spec.TCP6).Port()))
		}
		s.spec.Others = append(s.spec.Others, name+".refused.attack.test:"+port)
	}
	slices.Sort(s.spec.Others)
	s.spec.Proxy = fmt.Sprintf("127.0.0.1:%d", s.port)
	if s.spec.Inside {
		return nil
	}
	var err error
	if s.naive, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return err
	}
	s.spec.Proxy = s.naive.Addr().String()
	n := &naive{names: map[string]string{s.spec.Origin: s.origin, s.spec.ToolAt: s.origin, originName: s.origin}}
	n.names[selfName+":"+itoa(int(parse(s.spec.Proxy).Port()))] = s.spec.Proxy
	for _, o := range s.spec.Others {
		if strings.HasPrefix(o, "loop6") {
			n.names[o] = s.spec.TCP6
		} else if strings.HasPrefix(o, "loop") {
			n.names[o] = s.spec.TCP4
		}
	}
	s.wg.Go(func() { n.serve(s.naive) })
	return nil
}

// credential is the agent's identity for a process that the suite starts.
func (s *scene) credential() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: uint32(s.agent.uid), Gid: uint32(s.agent.gid)}
}

func (s *scene) makePreys() error {
	secret := filepath.Join(s.dir, "secret-of-the-victim")
	if err := os.WriteFile(secret, []byte(s.spec.Token), 0o600); err != nil {
		return err
	}
	if err := s.give(secret); err != nil {
		return err
	}
	var err error
	if s.victim, err = s.startPrey(secret); err != nil {
		return err
	}
	if s.holder, err = s.startPrey(secret); err != nil {
		return err
	}
	s.spec.Victim, s.spec.Holder, s.spec.Guard = s.victim.Prey, s.holder.Prey, 0
	s.spec.Reuse = s.victim.Reuse
	if s.spec.Inside {
		s.spec.Reuse = s.spec.Proxy
	} else {
		s.spec.Guard = s.holder.PID
	}
	return nil
}

func (s *scene) startPrey(secret string) (*preyProcess, error) {
	cmd := exec.Command(s.spec.Exe, hidden, "victim", secret, s.spec.TCP4)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential(), Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	cmd.Env = []string{"ATTACK_SECRET=" + s.spec.Token}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &preyProcess{cmd: cmd, in: in, lines: make(chan string, 16)}
	r := bufio.NewScanner(out)
	if !r.Scan() || json.Unmarshal(r.Bytes(), &p.hello) != nil {
		in.Close()
		cmd.Wait()
		return nil, errors.New("the victim did not start")
	}
	s.wg.Go(func() { p.listen(r) })
	return p, nil
}

func (p *preyProcess) listen(r *bufio.Scanner) {
	defer close(p.lines)
	for r.Scan() {
		if name, is := strings.CutPrefix(r.Text(), "signal "); is {
			p.mu.Lock()
			p.heard = append(p.heard, signalled{name, time.Now()})
			p.mu.Unlock()
			continue
		}
		select {
		case p.lines <- r.Text():
		default:
		}
	}
}

// settle waits until the victim has said everything that it got so far.
func (p *preyProcess) settle() {
	fmt.Fprintln(p.in, "settle")
	select {
	case <-p.lines:
	case <-time.After(answerLimit):
	}
}

func (p *preyProcess) signals() []signalled {
	p.settle()
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.heard)
}

// forget drops what was heard so far. A control does that between its steps.
func (p *preyProcess) forget() {
	p.settle()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = nil
}

// leakFD is the number of the descriptor that is left open.
const leakFD = 19

func (s *scene) makeLeak() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.leak = [2]*os.File{os.NewFile(uintptr(pair[0]), "leak"), os.NewFile(uintptr(pair[1]), "left open")}
	c, err := net.FileConn(s.leak[0])
	if err != nil {
		return err
	}
	s.own(c)
	s.wg.Go(func() {
		for r := bufio.NewScanner(c); r.Scan(); {
			s.rec.enter("inherited descriptor", r.Text())
		}
	})
	return nil
}
