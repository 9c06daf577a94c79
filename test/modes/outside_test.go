package modes

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/internal/testkit"
)

// far is an address that looks like the internet's, on the loopback interface of
// the test's own network namespace.
const far = "93.184.216.34"

// outside is what the agent must not reach, and what it may.
type outside struct {
	mu     sync.Mutex
	heard  map[string]bool
	page   string // address of the allowed server, on loopback
	unix   string // path of the granted socket
	secret string // a file that is not granted
	victim int    // a process of the agent's user
}

func newOutside(t *testing.T, b *bench) *outside {
	t.Helper()
	o := &outside{heard: map[string]bool{}}
	listen := func(network, address string) net.Listener {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	go o.take(listen("tcp4", far+":80"))
	for _, port := range []string{"53", "9000"} {
		c, err := net.ListenPacket("udp4", far+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go o.takePackets(c)
	}
	page1 := listen("tcp4", "127.0.0.1:0")
	o.page = page1.Addr().String()
	go http.Serve(page1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) }))
	o.unix = filepath.Join(b.dir, "echo.sock")
	s := listen("unix", o.unix)
	if err := os.Chmod(o.unix, 0o777); err != nil {
		t.Fatal(err)
	}
	go serveEcho(s)
	o.secret = filepath.Join(b.dir, "secret")
	if err := os.WriteFile(o.secret, []byte("s3cret"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sleep", "1000")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testkit.NobodyID, Gid: testkit.NobodyID}, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	o.victim = c.Process.Pid
	return o
}

// abstract listens on an abstract unix socket of that name.
func (o *outside) abstract(t *testing.T, name string) {
	t.Helper()
	l, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go o.take(l)
}

// take remembers the first line of each connection and sends it back.
func (o *outside) take(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			line, err := bufio.NewReader(c).ReadString('\n')
			if err == nil {
				o.note(strings.TrimSpace(line))
				fmt.Fprint(c, line)
			}
		}()
	}
}

func (o *outside) takePackets(c net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		o.note(string(b[:n]))
	}
}

func (o *outside) note(token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heard[token] = true
}

// aMoment is for the readers: what was sent on loopback by a process that has
// ended is there at once.
const aMoment = 20 * time.Millisecond

// reached says whether a token has arrived, or does within the time given.
func (o *outside) reached(token string, within time.Duration) bool {
	for end := time.Now().Add(within); ; time.Sleep(2 * time.Millisecond) {
		o.mu.Lock()
		is := o.heard[token]
		o.mu.Unlock()
		if is || time.Now().After(end) {
			return is
		}
	}
}

// policy is what every sandbox of the parity table runs under.
func (o *outside) policy(b *bench) string {
	return fmt.Sprintf(`version: 1
filesystem_policy:
  include_workdir: true
  read_write: [/dev/null]
  read_only: [/usr, /bin, /lib, /lib64, /etc, /proc, %s]
network_policies:
  page:
    endpoints: [{host: page.test, port: 80}]
    binaries: [{path: %s}]
host_services: [{host: page.test, port: 80, to: "%s"}]
sockets: {unix: [%s], bind: [8080], publish: [8080]}
`, b.exe, b.exe, o.page, o.unix)
}

// resolved are the names that are not looked up.
var resolved = map[string][]netip.Addr{}
