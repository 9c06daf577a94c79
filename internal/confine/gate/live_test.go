package gate_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
	"sallyport/internal/confine/stage"
	"sallyport/internal/kernel/notify"
	"sallyport/internal/kernel/procfs"
	"sallyport/internal/testkit"
)

// notifyFilter hands the calls of the gate over and allows everything else: the
// gate alone, without the static table.
func notifyFilter() []unix.SockFilter {
	ld := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	jeq := func(k uint32, jt, jf uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: jt, Jf: jf}
	}
	return []unix.SockFilter{
		ld(0),
		jeq(unix.SYS_SENDTO, 6, 0),
		jeq(unix.SYS_GETPEERNAME, 4, 0),
		jeq(unix.SYS_SOCKET, 3, 0),
		jeq(unix.SYS_CONNECT, 2, 0),
		jeq(unix.SYS_BIND, 1, 0),
		jeq(unix.SYS_LISTEN, 0, 6),
		ret(unix.SECCOMP_RET_USER_NOTIF),
		ld(16 + 4*8),
		jeq(0, 0, 2),
		ld(16 + 4*8 + 4),
		jeq(0, 1, 0),
		ret(unix.SECCOMP_RET_USER_NOTIF),
		ret(unix.SECCOMP_RET_ALLOW),
	}
}

// book is a ledger that remembers what was wanted.
type book struct {
	mu     sync.Mutex
	wanted map[netip.AddrPort]netip.AddrPort
}

func (b *book) Open(_ int, wanted netip.AddrPort) (func(netip.AddrPort), error) {
	return func(local netip.AddrPort) {
		if local.IsValid() {
			b.mu.Lock()
			b.wanted[local] = wanted
			b.mu.Unlock()
		}
	}, nil
}

// box is one sandbox with a gate and nothing else, whose every TCP connect ends
// at a server that says which address was wanted.
type box struct {
	ledger *book
	proxy  netip.AddrPort
	dir    string
	unix   []string
	mu     sync.Mutex
	denied []gate.Denial
	limits gate.Limits
	plain  bool         // a listener without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	served atomic.Int64 // connections at the proxy that were spoken on
	thread func(func()) error
	closes bool // Close, as the supervisor does, when the sandbox is empty
	dgram  func(fd int, closed func()) gate.Datagrams
	now    func() int64
	gate   *gate.Gate // the last one
}

func newBox(t testing.TB) *box {
	b := &box{ledger: &book{wanted: map[netip.AddrPort]netip.AddrPort{}}, dir: t.TempDir(), now: func() int64 { return time.Now().UnixNano() }}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.proxy = l.Addr().(*net.TCPAddr).AddrPort()
	testkit.Accept(t, l, b.echo)
	return b
}

func (b *box) echo(c net.Conn) {
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(c, make([]byte, 1)); err == nil { // the client speaks first, so the booking is there
		b.served.Add(1)
	}
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	fmt.Fprintf(c, "wanted %v\n", b.ledger.wanted[from])
}

// ownLoopback is where servers inside the box listen.
var ownLoopback = netip.MustParseAddr("127.77.1.2")

func (b *box) route(_ int, wanted netip.AddrPort) gate.Route {
	switch {
	case wanted.Port() == 9:
		return gate.Route{Errno: unix.EACCES, Reason: "port 9 is refused"}
	case wanted.Port() == 13:
		panic("port 13 brings bad luck")
	case wanted.Addr() == ownLoopback:
		return gate.Route{To: wanted}
	}
	return gate.Route{To: b.proxy, Book: true}
}

// reasons are those of the denials so far.
func (b *box) reasons() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, d := range b.denied {
		out = append(out, d.Reason)
	}
	return out
}

func (b *box) run(t testing.TB, argv ...string) (out string, status int) {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Skipf("needs %s", argv[0])
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, _ := os.Open(os.DevNull)
	defer null.Close()
	flags := uint(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	if !b.plain {
		flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	p, err := stage.Start(stage.Spec{
		Path: path, Args: argv, Env: os.Environ(), Dir: b.dir, Stdio: [3]*os.File{null, w, w}, Ruleset: -1, GuardRuleset: -1, Umask: 0o22,
		Filter: notifyFilter(), ListenerFlags: flags,
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	l := notify.New(p.Listener)
	l.SetSyncWakeUp()
	g := gate.New(l, gate.Options{
		Route: b.route, Ledger: b.ledger, Unix: gate.Grants(b.unix, []string{b.dir}), Writable: []string{b.dir}, Limits: b.limits, Interruptible: b.plain, Thread: b.thread, Datagram: b.dgram,
		Loopback: [2]netip.Addr{ownLoopback, netip.MustParseAddr("127.77.1.3")}, Published: func(p uint16) bool { return false },
		BindPort: func(p uint16) bool { return p == 0 || p >= 32768 },
		Denied:   func(d gate.Denial) { b.mu.Lock(); b.denied = append(b.denied, d); b.mu.Unlock() },
		Members:  func() []int { m, _ := procfs.Descendants(os.Getpid()); return m },
		Now:      b.now,
	})
	b.gate = g
	done := make(chan error, 1)
	go func() { done <- g.Run() }()
	raw, _ := io.ReadAll(r)
	st, err := p.Wait()
	if err != nil {
		t.Error(err)
	}
	if b.closes {
		g.Close()
	}
	if err := <-done; err != nil {
		t.Error("gate:", err)
	}
	return string(raw), st.ExitStatus()
}

// A program that knows nothing of a proxy connects to an address of its choice,
// and reaches the proxy, which knows the address.
func TestConnectIsCaptured(t *testing.T) {
	b := newBox(t)
	for _, tt := range []struct{ name, script, want string }{
		{"blocking", `s=socket.create_connection(("93.184.216.34",443)); s.send(b"x"); print(s.recv(100).decode())`, "wanted 93.184.216.34:443"},
		{"v6", `s=socket.socket(socket.AF_INET6); s.connect(("2606:2800:220:1::1",443)); s.send(b"x"); print(s.recv(100).decode())`, "wanted [2606:2800:220:1::1]:443"},
		{"v6 only", `s=socket.socket(socket.AF_INET6); s.setsockopt(41,26,1); s.connect(("2606:2800:220:1::1",443)); s.send(b"x"); print(s.recv(100).decode())`, "wanted [2606:2800:220:1::1]:443"},
		{"mapped", `s=socket.socket(socket.AF_INET6); s.connect(("::ffff:93.184.216.34",80)); s.send(b"x"); print(s.recv(100).decode())`, "wanted 93.184.216.34:80"},
		{"non-blocking", `
s=socket.socket(); s.setblocking(False); e=s.connect_ex(("93.184.216.34",443)); print("first", e)
select.select([],[s],[],60); print("second", s.connect_ex(("93.184.216.34",443)) in (0, errno.EISCONN), s.getsockopt(1,4))
s.setblocking(True); s.send(b"x"); print(s.recv(100).decode())`, "first 115\nsecond True 0\nwanted 93.184.216.34:443"},
		{"peer", `s=socket.create_connection(("93.184.216.34",443)); print(s.getpeername())`, "('93.184.216.34', 443)"},
		{"peer, v6", `s=socket.create_connection(("2606:2800:220:1::1",443)); print(s.getpeername()[:2])`, "('2606:2800:220:1::1', 443)"},
		{"peer, mapped", `s=socket.socket(socket.AF_INET6); s.connect(("::ffff:93.184.216.34",80)); print(s.getpeername()[:2])`, "('::ffff:93.184.216.34', 80)"},
		{"peer, cut short", `
import ctypes; l=ctypes.CDLL(None); s=socket.create_connection(("93.184.216.34",443)); b=(ctypes.c_ubyte*16)(*[9]*16); n=ctypes.c_uint(6)
print(l.getpeername(s.fileno(),b,ctypes.byref(n)), n.value, list(b)[2:8])`, "0 16 [1, 187, 93, 184, 9, 9]"},
		{"peer of others", `
print(repr(socket.socketpair()[0].getpeername()))
try: socket.socket().getpeername()
except OSError as e: print(e.errno)`, "''\n107"},
		{"refused", `print(socket.socket().connect_ex(("93.184.216.34",9)))`, "13"},
		{"fin reaches the server", `
s=socket.create_connection(("93.184.216.34",443)); s.send(b"x"); s.shutdown(1); print(len(s.recv(100))>0); s.close()`, "True"},
		{"dup keeps its socket", `
s=socket.socket(); d=s.dup(); s.close(); d.connect(("93.184.216.34",5432)); d.send(b"x"); print(d.recv(100).decode())`, "wanted 93.184.216.34:5432"},
		{"fork keeps its socket", `
s=socket.socket()
if os.fork()==0:
  s.connect(("93.184.216.34",22)); s.send(b"x"); print(s.recv(100).decode(), flush=True); os._exit(0)
os.wait()`, "wanted 93.184.216.34:22"},
		{"epoll", `
e=select.epoll(); s=socket.socket(); s.setblocking(False); e.register(s, select.EPOLLOUT); s.connect_ex(("93.184.216.34",443))
print([m & select.EPOLLOUT != 0 for _, m in e.poll(60)])`, "[True]"},
		{"bad descriptor", `
import ctypes; l=ctypes.CDLL(None, use_errno=True); b=bytes([2,0,1,187,1,2,3,4]+[0]*8)
print(l.connect(999,b,16), ctypes.get_errno()); r,w=os.pipe(); print(l.connect(r,b,16), ctypes.get_errno()); s=socket.socket()
print(l.connect(s.fileno(),ctypes.c_void_p(8),16), ctypes.get_errno()); print(l.connect(s.fileno(),b,1<<20), ctypes.get_errno()); print(l.connect(s.fileno(),b,4), ctypes.get_errno())`,
			"-1 9\n-1 88\n-1 14\n-1 22\n-1 22"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _ := b.run(t, "python3", "-c", "import socket,select,os,errno\n"+tt.script)
			if strings.TrimSpace(out) != tt.want {
				t.Errorf("got %q, want %q", strings.TrimSpace(out), tt.want)
			}
		})
	}
}

func TestUnixSockets(t *testing.T) {
	b := newBox(t)
	outside := t.TempDir()
	serve := func(name string) string {
		p := filepath.Join(outside, name)
		l, err := net.Listen("unix", p)
		if err != nil {
			t.Fatal(err)
		}
		testkit.Accept(t, l, func(c net.Conn) { io.WriteString(c, "hello from "+name) })
		return p
	}
	granted, closed := serve("granted.sock"), serve("docker.sock")
	// A granted path in a directory that the agent may write: there it could put
	// another socket in its place.
	shared := filepath.Join(b.dir, "shared.sock")
	l, err := net.Listen("unix", shared)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(outside, "log"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	bus, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(outside, "bus"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	packets, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(outside, "packets"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	b.unix = []string{granted, shared, log.LocalAddr().String(), packets.Addr().String()}
	os.Symlink(closed, filepath.Join(b.dir, "link"))
	for _, tt := range []struct{ name, script, want string }{
		{"granted", fmt.Sprintf(`s=socket.socket(1); s.connect(%q); print(s.recv(100).decode())`, granted), "hello from granted.sock"},
		{"closed", fmt.Sprintf(`print(socket.socket(1).connect_ex(%q))`, closed), "13"},
		{"through a symlink", `print(socket.socket(1).connect_ex("link"))`, "13"},
		{"abstract", `print(socket.socket(1).connect_ex("\0x"))`, "111"},
		{"missing", `print(socket.socket(1).connect_ex("/nonexistent"))`, "2"},
		{"own server", `
s=socket.socket(1); s.bind("own"); s.listen(); c=socket.socket(1); c.connect(os.path.abspath("own")); a,_=s.accept(); a.send(b"mine"); print(c.recv(9).decode())`, "mine"},
		{"bind outside", fmt.Sprintf(`
try: socket.socket(1).bind(%q)
except OSError as e: print(e.errno)`, filepath.Join(outside, "new")), "13"},
		{"granted, and writable", `s=socket.socket(1); s.connect("shared.sock"); print("connected")`, "connected"},
		{"another socket in the place of a granted one", fmt.Sprintf(`
s=socket.socket(1); s.bind("own2"); os.unlink("shared.sock"); os.symlink(%q, "shared.sock")
print(socket.socket(1).connect_ex("shared.sock"), socket.socket(1).connect_ex(%q))
os.unlink("shared.sock"); os.rename("other.sock", "shared.sock"); print(socket.socket(1).connect_ex("shared.sock"))`, closed, closed), "13 13\n13"},
		{"abstract bus", `print(socket.socket(1).connect_ex("\0/tmp/dbus-x"))`, "111"},
		{"packets", fmt.Sprintf(`s=socket.socket(1,5); s.connect(%q); print("connected")`, filepath.Join(outside, "packets")), "connected"},
		{"packets, closed", fmt.Sprintf(`print(socket.socket(1,5).connect_ex(%q))`, closed), "13"},
		{"datagram", fmt.Sprintf(`s=socket.socket(1,2); s.connect(%q); s.send(b"one"); print(s.sendto(b"two", %q))`, filepath.Join(outside, "log"), filepath.Join(outside, "log")), "3"},
		{"datagram, closed", fmt.Sprintf(`
s=socket.socket(1,2); print(s.connect_ex(%q))
for f in (lambda: s.sendto(b"x", %q), lambda: s.bind("mine"), lambda: s.sendto(b"x", "\0x")):
  try: f()
  except OSError as e: print(e.errno)
s.sendmsg([b"by a name in memory"], [], 0, %q)`, filepath.Join(outside, "bus"), filepath.Join(outside, "bus"), filepath.Join(outside, "bus")), "13\n13\n13\n111"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.HasPrefix(tt.name, "another") {
				// a socket of the host that the agent can reach by rename, but not by right
				other, err := net.Listen("unix", filepath.Join(b.dir, "other.sock"))
				if err != nil {
					t.Fatal(err)
				}
				defer other.Close()
			}
			out, _ := b.run(t, "python3", "-c", "import socket,os\n"+tt.script)
			if strings.TrimSpace(out) != tt.want {
				t.Errorf("got %q, want %q", strings.TrimSpace(out), tt.want)
			}
		})
	}
	for _, want := range []string{"the Docker engine", "@/tmp/dbus-x (D-Bus)"} {
		if !slices.ContainsFunc(b.denied, func(d gate.Denial) bool { return strings.Contains(d.Target, want) }) {
			t.Errorf("no denial names %s: %+v", want, b.denied)
		}
	}
	got := map[string]bool{}
	buf := make([]byte, 100)
	for range 2 {
		log.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := log.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got[string(buf[:n])] = true
	}
	if !got["one"] || !got["two"] {
		t.Errorf("the granted datagram socket got %v", got)
	}
	bus.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := bus.Read(buf); err == nil {
		t.Errorf("the closed datagram socket got %q", buf[:n])
	}
}

func TestServersAndNetlink(t *testing.T) {
	b := newBox(t)
	for _, tt := range []struct{ name, script, want string }{
		{"listen without bind", `
try: socket.socket().listen()
except OSError as e: print(e.errno)`, "13"},
		{"port not granted", `
try: socket.socket().bind(("127.0.0.1",8080))
except OSError as e: print(e.errno)`, "13"},
		{"foreign address", `
try: socket.socket().bind(("93.184.216.34",0))
except OSError as e: print(e.errno)`, "99"},
		{"wildcard is loopback", `s=socket.socket(); s.bind(("",0)); s.listen(); print(s.getsockname()[0])`, "127.77.1.2"},
		{"interfaces", `print(any(n=="lo" for _, n in socket.if_nameindex()))`, "True"},
		{"unix datagram without a grant", `
try: socket.socket(1,2)
except OSError as e: print(e.errno)`, "13"},
		{"udp", `
try: socket.socket(2,2)
except OSError as e: print(e.errno)`, "13"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _ := b.run(t, "python3", "-c", "import socket,os\n"+tt.script)
			if strings.TrimSpace(out) != tt.want {
				t.Errorf("got %q, want %q", strings.TrimSpace(out), tt.want)
			}
		})
	}
}
