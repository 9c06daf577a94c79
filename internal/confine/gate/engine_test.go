package gate_test

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
	"sallyport/internal/confine/stage"
	"sallyport/internal/kernel/notify"
)

// These tests are about what one caller can do to others. Each script ends by
// itself: an alarm kills a program that is held up.

const prelude = `import socket,os,errno,threading,time,signal,ctypes
signal.alarm(300)
def proxy(n=1):
  for _ in range(n):
    s=socket.create_connection(("93.184.216.34",443)); s.send(b"x"); assert s.recv(100).startswith(b"wanted"), "no answer"; s.close()
def thread(f,*a):
  t=threading.Thread(target=f,args=a,daemon=True); t.start(); return t
def err(f,*a):
  try: f(*a); return 0
  except OSError as e: return e.errno
def full(family,at):
  "a server whose queue is full, and the connections that fill it"
  l=socket.socket(family); l.bind(at); l.listen(0); held=[]
  if family==socket.AF_INET: at=l.getsockname()
  for _ in range(5):
    c=socket.socket(family); c.setblocking(False); held.append(c); c.connect_ex(at); c.setblocking(True)
  return l,held
def drain(l,*threads):
  "accept until the threads have ended"
  l.settimeout(0.05)
  while any(t.is_alive() for t in threads):
    try: l.accept()
    except TimeoutError: pass
def waiting(n):
  "until n threads are in a system call that the gate answers"
  while True:
    calls=[open("/proc/self/task/%s/syscall"%t).read().split()[0] for t in os.listdir("/proc/self/task")]
    if calls.count(str(CONNECT))>=n: return
CONNECT={"x86_64":42,"aarch64":203}[os.uname().machine]
`

func TestOthersAreServedMeanwhile(t *testing.T) {
	for _, tt := range []struct{ name, script string }{
		{"slow TCP connect", `
l,held=full(socket.AF_INET,("127.0.0.1",0)); s=socket.socket(); t=thread(s.connect,l.getsockname()); waiting(1)
proxy(20); assert t.is_alive(), "control: the connect did not wait"
drain(l,t)
s.getpeername()`},
		{"slow unix connect", `
l,held=full(socket.AF_UNIX,"slow"); s=socket.socket(socket.AF_UNIX); t=thread(s.connect,os.path.abspath("slow")); waiting(1)
proxy(20); assert t.is_alive(), "control: the connect did not wait"
drain(l,t)
s.getpeername()`},
		{"two calls on one slow socket", `
l,held=full(socket.AF_UNIX,"slow"); s=socket.socket(socket.AF_UNIX); at=os.path.abspath("slow"); got=[]
a=thread(lambda: got.append(s.connect_ex(at))); b=thread(lambda: got.append(s.connect_ex(at))); waiting(2)
proxy(20); assert a.is_alive() and b.is_alive(), "control: the connects did not wait"
drain(l,a,b)
assert sorted(got)==[0,errno.EISCONN], got`},
		{"limit of the agent's own", `
import struct
l,held=full(socket.AF_INET,("127.0.0.1",0)); s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_SNDTIMEO,struct.pack("ll",0,300000))
e=s.connect_ex(l.getsockname()); assert e==errno.EINPROGRESS, e`},
		{"descriptor closed while a bind waits", `
l=socket.socket(); l.bind(("127.0.0.1",0)); l.listen(); port=l.getsockname()[1]
for _ in range(50):
  s=socket.socket(); fd=s.fileno(); t=thread(err,s.bind,("127.0.0.1",port)); os.close(s.detach()); t.join()
proxy()`},
		{"callers that die in their call", `
l,held=full(socket.AF_UNIX,"slow")
def wait(s): # EAGAIN: the gate waits for too many of the dead still
  while s.connect_ex("slow")==errno.EAGAIN: pass
for _ in range(100):
  pid=os.fork()
  if pid==0: wait(socket.socket(socket.AF_UNIX)); os._exit(1)
  while open("/proc/%d/syscall"%pid).read().split()[0]!=str(CONNECT): pass
  os.kill(pid,signal.SIGKILL); os.waitpid(pid,0)
proxy()
s=socket.socket(socket.AF_UNIX); t=thread(wait,s)
drain(l,t); s.getpeername()`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			out, status := b.run(t, "python3", "-c", prelude+tt.script)
			if out != "" || status != 0 {
				t.Errorf("status %d\n%s", status, out)
			}
		})
	}
}

// What goes beyond a limit is refused and told, and what comes later is served.
func TestLimits(t *testing.T) {
	second := func() int64 { return 7e9 }
	for _, tt := range []struct {
		name, script, reason string
		limits               gate.Limits
		now                  func() int64
	}{
		{"twins", `
held=[socket.socket() for _ in range(8)]; e=err(socket.socket); assert e==errno.ENFILE, e
for s in held: s.close()
proxy(3)`, "the sandbox holds too many unconnected sockets", gate.Limits{Twins: 8}, nil},
		{"connects", `
proxy(5); e=err(proxy); assert e==errno.EAGAIN, e`, "this sandbox tries too many connections a second", gate.Limits{Connects: 5}, second},
		{"pending", `
l=socket.socket(socket.AF_UNIX); l.bind("slow"); l.listen(0); at=os.path.abspath("slow"); refused=threading.Event(); said=[]
def patient(): # a blocking connect waits for the queue, so EAGAIN is the gate's
  s=socket.socket(socket.AF_UNIX)
  while (e:=s.connect_ex(at))==errno.EAGAIN: refused.set(); time.sleep(0.001)
  said.append(e); return s
held=patient(); refused.clear(); said.clear() # the queue has one place
ts=[thread(patient) for _ in range(2)]
refused.wait(); proxy(); drain(l,*ts); assert said==[0,0], said`, "too many calls of this sandbox are waiting", gate.Limits{Pending: 1}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			b.limits = tt.limits
			if tt.now != nil {
				b.now = tt.now
			}
			out, status := b.run(t, "python3", "-c", prelude+tt.script)
			if out != "" || status != 0 {
				t.Errorf("status %d\n%s", status, out)
			}
			if !slices.Contains(b.reasons(), tt.reason) {
				t.Errorf("denials %q, want one that says %q", b.reasons(), tt.reason)
			}
		})
	}
}

// Signals that come in the middle of calls lose none and double none, whether the
// kernel restarts a call or says EINTR, and whether it holds signals back from a call
// that was received. A call that was interrupted is made again, and is then the first.
func TestSignalStorm(t *testing.T) {
	const rounds = 300
	for _, tt := range []struct {
		name    string
		restart bool
		plain   bool
	}{{"restart", true, false}, {"EINTR", false, false}, {"restart, plain listener", true, true}, {"EINTR, plain listener", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			b.plain = tt.plain
			out, status := b.run(t, "python3", "-c", prelude+fmt.Sprintf(`
libc=ctypes.CDLL(None,use_errno=True); hit=[0]
def handler(*a): hit[0]+=1
signal.alarm(0); signal.signal(signal.SIGALRM,handler); signal.siginterrupt(signal.SIGALRM,%d)
signal.setitimer(signal.ITIMER_REAL,0.0003,0.0003)
at=bytes([2,0,1,187,93,184,216,34]+[0]*8)
def again(f,*a):
  while True:
    r=f(*a)
    if r>=0 or ctypes.get_errno()!=errno.EINTR: return r
made=0
while made<%d or hit[0]<100:
  fd=again(libc.socket,2,1,0); assert fd>2, (fd,ctypes.get_errno())
  r=again(libc.connect,fd,at,16); assert r==0, ctypes.get_errno()
  assert again(libc.send,fd,b"x",1,0)==1; os.close(fd); made+=1
signal.setitimer(signal.ITIMER_REAL,0)
assert len(os.listdir("/proc/self/fd"))<8, os.listdir("/proc/self/fd")
print(made)`, map[bool]int{true: 0, false: 1}[tt.restart], rounds))
			made, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
			if err != nil || status != 0 {
				t.Fatalf("status %d\n%s", status, out)
			}
			for end := time.Now().Add(20 * time.Second); b.served.Load() != made && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
			if got := b.served.Load(); got != made || len(b.reasons()) > 0 {
				t.Errorf("%d connections arrived, want %d; denials %q", got, made, b.reasons())
			}
		})
	}
}

// slowServer is a stand-in's other end whose answer comes when the agent says so.
type slowServer int

func (s slowServer) Send([]byte) {
	unix.Write(int(s), []byte("?"))
	unix.Read(int(s), make([]byte, 8)) // or the agent's end is closed
}

// A query whose answer takes its time holds up nobody, not even who asks about the
// same socket meanwhile.
func TestSlowQueryHoldsUpNobody(t *testing.T) {
	b := newBox(t)
	b.dgram = func(fd int, closed func()) gate.Datagrams {
		t.Cleanup(func() { unix.Close(fd) })
		return slowServer(fd)
	}
	out, status := b.run(t, "python3", "-c", prelude+`
got=[]; u=socket.socket(2,2); q=thread(u.sendto,b"q",("192.0.2.53",53)); assert u.recv(8)==b"?"
t=thread(lambda: got.append(u.getpeername())); t.join(60)
assert got==[("192.0.2.53",53)], got
proxy(20); assert q.is_alive(), "control: the query did not wait"
u.send(b"go"); q.join()`)
	if out != "" || status != 0 {
		t.Errorf("status %d\n%s", status, out)
	}
}

// A panic in a handler refuses that one call and is told; the sandbox lives.
func TestPanic(t *testing.T) {
	b := newBox(t)
	out, _ := b.run(t, "python3", "-c", prelude+`
for _ in range(3): print(socket.socket().connect_ex(("93.184.216.34",13)))
proxy(); print("alive")`)
	if out != "13\n13\n13\nalive\n" {
		t.Errorf("output %q", out)
	}
	if want := slices.Repeat([]string{"bug: port 13 brings bad luck"}, 3); !slices.Equal(b.reasons(), want) {
		t.Errorf("denials %q, want %q", b.reasons(), want)
	}
	if _, panics := b.gate.Calls(); panics != 3 {
		t.Errorf("%d panics, want 3", panics)
	}
}

// Close ends Run although calls are waiting, and the callers get ENOSYS.
func TestCloseWhileCallsWait(t *testing.T) {
	b := newBox(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := stage.Start(stage.Spec{
		Path: python, Args: []string{"python3", "-c", prelude + `
l,held=full(socket.AF_UNIX,"slow"); s=socket.socket(socket.AF_UNIX); o=[]
t=thread(lambda: o.append(s.connect_ex("slow"))); waiting(1); print("waits", flush=True); t.join(); print(o, err(socket.socket), flush=True)`},
		Env: os.Environ(), Dir: b.dir, Stdio: [3]*os.File{null, w, w}, Ruleset: -1, GuardRuleset: -1, Umask: 0o22,
		Filter: notifyFilter(), ListenerFlags: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	g := gate.New(notify.New(p.Listener), gate.Options{
		Route: b.route, Ledger: b.ledger, Writable: []string{b.dir}, Loopback: [2]netip.Addr{ownLoopback, ownLoopback}, Now: b.now,
		Members: func() []int { return nil }, BindPort: func(uint16) bool { return true }, Published: func(uint16) bool { return false },
	})
	ended := make(chan error, 1)
	go func() { ended <- g.Run() }()
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("Run goes on half a minute after Close")
	}
	rest, _ := io.ReadAll(r)
	if got := strings.TrimSpace(string(rest)); got != "[38] 38" {
		t.Errorf("the program saw %q, want ENOSYS twice", got)
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// hostile prints what the kernel, or the gate in its place, answers to nonsense.
const hostile = prelude + `
import ctypes,struct
libc=ctypes.CDLL(None,use_errno=True)
def call(name,*a):
  f=getattr(libc,name); f.argtypes=None; r=f(*[ctypes.c_void_p(x) if isinstance(x,int) else x for x in a]); return 0 if r>=0 else ctypes.get_errno()
def inet(port=9): return struct.pack("=HH4s8x",2,socket.htons(port),socket.inet_aton("127.0.0.1"))
pipe,_=os.pipe(); closed=os.dup(0); os.close(closed)
fds={"closed":closed,"-1":0xffffffff,"-1 in 64 bits":(1<<64)-1,"minimum":0x80000000,"pipe":pipe,"file":os.open("/",os.O_RDONLY)}
for name,fd in fds.items():
  print("descriptor",name,call("connect",fd,inet(),16),call("bind",fd,inet(),16),call("listen",fd,1),call("sendto",fd,b"x",1,0,inet(),16))
for n in (0,1,2,3,8,15,129,1<<20,0x7fffffff,0x80000000,0xffffffff,(1<<32)+129):
  s=socket.socket(); print("length",n,call("connect",s.fileno(),inet(),n),call("bind",s.fileno(),inet(),n))
  s=socket.socket(socket.AF_INET6); print("length6",n,call("connect",s.fileno(),struct.pack("=HH",10,0)+bytes(124),n),call("bind",s.fileno(),struct.pack("=HH",10,0)+bytes(124),n))
for where in (0,8,1<<46,1<<63,(1<<64)-1):
  s=socket.socket(); print("pointer",hex(where),call("connect",s.fileno(),where,16),call("bind",s.fileno(),where,16))
for family in (3,16,17,38,40,0x7fff,0xffff):
  s=socket.socket(); print("family",family,call("connect",s.fileno(),struct.pack("=H",family)+bytes(126),128))
s=socket.socket(socket.AF_UNIX); print("empty path",call("connect",s.fileno(),struct.pack("=H",1)+b"x"*108,110),call("bind",s.fileno(),struct.pack("=H",1)+b"/nonexistent/x\0",20),call("bind",s.fileno(),struct.pack("=H",1)+b"x"*126,128))
`

// TestHostileArguments compares the gate's answers with the kernel's own to the
// same program. None of them is a decision, so none makes an event.
func TestHostileArguments(t *testing.T) {
	b := newBox(t)
	dir := t.TempDir()
	bare := exec.Command("python3", "-c", hostile)
	bare.Dir = dir
	want, err := bare.CombinedOutput()
	if err != nil {
		t.Skipf("needs python3: %v\n%s", err, want)
	}
	got, _ := b.run(t, "python3", "-c", hostile)
	for i, w := range strings.Split(string(want), "\n") {
		lines := strings.Split(got, "\n")
		if i >= len(lines) || lines[i] != w {
			t.Errorf("inside %q, bare %q", at(lines, i), w)
		}
	}
	if len(b.denied) > 0 {
		t.Errorf("denials: %+v", b.denied)
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}
