package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/internal/policy"
)

// demoScene is the outside of the demo: a directory of its own, an origin that
// the policy allows and two servers that nothing may reach.
type demoScene struct {
	dir, exe, workdir, outside, secret, script, policy string
	mode                                               string // of run; empty: what it takes by itself

	origin       *http.Server
	originAddr   string
	trap, beside net.Listener
	proxyPort    int
	hits         atomic.Int64 // connections to trap and beside
	servers      sync.WaitGroup
}

// newDemoScene builds the scene; the caller closes it. Another user than the
// caller may run the script, because root's agent is not root: everything here
// can be reached by everybody, so that nothing but the sandbox holds it.
func newDemoScene(ctx context.Context) (*demoScene, error) {
	dir, err := os.MkdirTemp("", "sallyport-demo-")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	d := &demoScene{
		dir: dir, exe: filepath.Join(dir, "bin", "sallyport"), workdir: filepath.Join(dir, "work"),
		outside: filepath.Join(dir, "outside"), secret: filepath.Join(dir, "outside", "secret"),
		script: filepath.Join(dir, "work", "agent.sh"), policy: filepath.Join(dir, "policy.yaml"),
	}
	for _, step := range []func(context.Context) error{d.makeFiles, d.listen, d.writePolicy} {
		if err := step(ctx); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

func (d *demoScene) makeFiles(context.Context) error {
	dirs := []struct {
		path string
		mode os.FileMode
	}{{d.dir, 0o755}, {filepath.Dir(d.exe), 0o755}, {d.workdir, 0o777}, {d.outside, 0o777}}
	for _, m := range dirs {
		if err := os.MkdirAll(m.path, m.mode); err != nil {
			return err
		}
		if err := os.Chmod(m.path, m.mode); err != nil { // whatever the umask
			return err
		}
	}
	files := []struct{ path, text string }{{d.secret, demoSecret + "\n"}, {d.script, demoScript}}
	for _, f := range files {
		if err := os.WriteFile(f.path, []byte(f.text), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(f.path, 0o644); err != nil {
			return err
		}
	}
	return copyProgram(d.exe)
}

// copyProgram puts this program where the agent can run it: the one under "go
// run" lies in a directory that only its owner enters.
func copyProgram(to string) error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Chmod(0o755)
	}
	return errors.Join(err, out.Close())
}

func (d *demoScene) listen(ctx context.Context) error {
	var lc net.ListenConfig
	origin, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.originAddr = origin.Addr().String()
	d.origin = &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello\n") }),
	}
	d.servers.Go(func() { _ = d.origin.Serve(origin) }) // ends when it is closed
	if d.trap, err = lc.Listen(ctx, "tcp4", "127.0.0.1:0"); err != nil {
		return err
	}
	if err := d.listenBeside(ctx, &lc); err != nil {
		return err
	}
	d.servers.Go(func() { d.count(d.trap) })
	d.servers.Go(func() { d.count(d.beside) })
	return nil
}

// listenBeside finds a port that is free on 127.0.0.1, for the proxy, and
// takes it on 127.0.0.2.
func (d *demoScene) listenBeside(ctx context.Context, lc *net.ListenConfig) error {
	var err error
	for range 20 {
		// below the ports of the default range that the kernel gives away by itself
		// (ip_local_port_range): nobody takes it between here and the proxy's start
		d.proxyPort = 20000 + rand.N(12000)
		var probe net.Listener
		if probe, err = lc.Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", d.proxyPort)); err != nil {
			continue
		}
		d.beside, err = lc.Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.2:%d", d.proxyPort))
		probe.Close()
		if err == nil {
			return nil
		}
	}
	return err
}

// count accepts until the listener closes. What does not send the mark is not
// the script.
func (d *demoScene) count(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(2 * time.Second))
		got, _ := io.ReadAll(io.LimitReader(c, int64(len(demoMark))))
		c.Close()
		if string(got) == demoMark {
			d.hits.Add(1)
		}
	}
}

// settle returns when every connection made so far has been counted: the
// listeners are served in order, so that one of our own comes last.
func (d *demoScene) settle() {
	for _, l := range []net.Listener{d.trap, d.beside} {
		c, err := net.DialTimeout("tcp4", l.Addr().String(), 2*time.Second)
		if err != nil {
			continue
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, "end\n")
		_, _ = io.Copy(io.Discard, c) // until the server has read it
		c.Close()
	}
}

func (d *demoScene) environment() []string {
	return []string{
		"LC_ALL=C", "try=" + d.exe, "origin=" + d.originAddr, "trap=" + d.trap.Addr().String(),
		"beside=" + d.beside.Addr().String(), "secret=" + d.secret, "outside=" + d.outside,
	}
}

// writePolicy allows one name, for one program, beside what the default policy
// grants outside of the demo's own directory.
func (d *demoScene) writePolicy(context.Context) error {
	def := policy.Default().Filesystem
	quoted := func(paths []string) string {
		var out []string
		for _, p := range paths {
			if _, err := os.Stat(p); err == nil && !below(d.dir, p) {
				out = append(out, fmt.Sprintf("%q", p))
			}
		}
		return strings.Join(out, ", ")
	}
	text := fmt.Sprintf(`version: 1
filesystem_policy:
  include_workdir: true
  read_only: [%s]
  read_write: [%s]
host_services:
  - {host: hello.example, port: 80, to: %q}
network_policies:
  hello:
    endpoints: [{host: hello.example, port: 80}]
    binaries: [{path: %q}]
`, quoted(append(def.ReadOnly, filepath.Dir(d.exe))), quoted(def.ReadWrite), d.originAddr, d.exe)
	if err := os.WriteFile(d.policy, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Chmod(d.policy, 0o644)
}

// close ends the servers and removes the directory.
func (d *demoScene) close() {
	if d.origin != nil {
		d.origin.Close()
	}
	for _, l := range []net.Listener{d.trap, d.beside} {
		if l != nil {
			l.Close()
		}
	}
	d.servers.Wait()
	os.RemoveAll(d.dir)
}
