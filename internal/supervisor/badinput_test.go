package supervisor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport/internal/testkit"
)

// counts are what a supervisor holds for its sandbox. Descriptors are by what they
// lead to; those of /proc are left out, which the ledger keeps for threads that it has
// seen, up to a bound.
type counts struct {
	Descriptors                 map[string]int
	Goroutines, Opening, Booked int
}

// answerCounts answers each byte at descriptor 3 with the counts of now.
func (s *sandbox) answerCounts() {
	ask := os.NewFile(3, "counts")
	for b := make([]byte, 1); ; {
		if _, err := ask.Read(b); err != nil {
			return
		}
		c := counts{Descriptors: map[string]int{}}
		fds, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range fds {
			to, err := os.Readlink(fd)
			if to, _, _ = strings.Cut(to, ":"); err == nil && !strings.HasPrefix(to, "/proc/") {
				c.Descriptors[to]++
			}
		}
		c.Goroutines = runtime.NumGoroutine()
		c.Opening, c.Booked = s.ledger.Pending()
		if json.NewEncoder(ask).Encode(c) != nil {
			return
		}
	}
}

const badPrelude = `import ctypes,errno,os,signal,socket,struct,subprocess,sys,threading,time
libc=ctypes.CDLL(None,use_errno=True)
def call(name,*a):
  f=getattr(libc,name); r=f(*[ctypes.c_void_p(x) if isinstance(x,int) else x for x in a]); return 0 if r>=0 else ctypes.get_errno()
def err(f,*a):
  try: f(*a); return 0
  except OSError as e: return e.errno
def inet(port=9,host="127.0.0.1"): return struct.pack("=HH4s8x",2,socket.htons(port),socket.inet_aton(host))+bytes(112)
def inet6(port=9,host="::1"): return struct.pack("=HHI16sI",10,socket.htons(port),0,socket.inet_pton(10,host),0)+bytes(100)
def local(path): return struct.pack("=H126s",1,path)
LENGTHS=(0,1,2,3,4,15,16,23,24,27,28,109,110,111,128,129,256,1<<16,0x7fffffff,0x80000000,0xffffffff,(1<<32)+129)
POINTERS=(0,8,1<<46,1<<63,(1<<64)-1)
`

// malformed prints what a kernel, or the gate in its place, answers to calls that want
// nothing: each line is one way to call wrongly.
const malformed = badPrelude + `
pipe,_=os.pipe(); closed=800
fds={"closed":closed,"-1":0xffffffff,"-1 in 64 bits":(1<<64)-1,"minimum":0x80000000,"huge":0x7fffffff,"pipe":pipe,"directory":os.open("/usr",os.O_RDONLY)}
for name,fd in fds.items():
  for n in (16,1,0xffffffff,129): print(name,n,call("connect",fd,inet(),n),call("bind",fd,inet(),n),call("sendto",fd,b"x",1,0,inet(),n))
  print(name,"listen",call("listen",fd,1),"no memory",call("connect",fd,8,16),call("bind",fd,8,16),call("sendto",fd,b"x",1,0,8,16))
kinds={"inet":(2,1),"inet6":(10,1),"unix":(1,1),"seqpacket":(1,5)}
addresses={"inet":inet(0),"inet6":inet6(0),"unspec":bytes(128),"family 3":struct.pack("=H",3)+bytes(126),"family 0xffff":b"\xff"*128,"vsock":struct.pack("=H",40)+bytes(126)}
for kind,(d,t) in kinds.items():
  for n in LENGTHS:
    s=socket.socket(d,t); print(kind,"connect, length",n,call("connect",s.fileno(),{2:inet(),10:inet6(),1:local(b"/nonexistent/x")}[d],n) if not (d==1 and n in (2,)) else 22)
    s=socket.socket(d,t); print(kind,"bind, length",n,call("bind",s.fileno(),{2:inet(0),10:inet6(0),1:local(b"/nonexistent/x")}[d],n) if not (d==1 and n in (2,3,4)) else "")
    s=socket.socket(d,t); print(kind,"sendto, length",n,call("sendto",s.fileno(),b"x",1,0x4000,inet(),n))
  for p in POINTERS:
    s=socket.socket(d,t); print(kind,"pointer",hex(p),call("connect",s.fileno(),p,16),call("bind",s.fileno(),p,16),call("sendto",s.fileno(),b"x",1,0x4000,p,16))
  for name,at in addresses.items():
    for n in (2,16,28,128):
      s=socket.socket(d,t); print(kind,name,n,"connect",call("connect",s.fileno(),at,n),"again",call("connect",s.fileno(),at,n))
      s=socket.socket(d,t); print(kind,name,n,"bind",call("bind",s.fileno(),at,n))
  s=socket.socket(d,t); print(kind,"peer",call("getpeername",s.fileno(),8,8),call("getsockname",s.fileno(),8,8))
s=socket.socket(); s.bind(("127.0.0.1",0)); print("bound twice",call("bind",s.fileno(),inet(0),16))
l=socket.socket(); l.bind(("127.0.0.1",0)); l.listen(); print("listening",call("listen",l.fileno(),5),call("bind",l.fileno(),inet(0),16),call("connect",l.fileno(),inet(),16))
for t in (1,5):
  u=socket.socket(1,t); print("unix, unbound",call("listen",u.fileno(),1),"a directory",call("connect",u.fileno(),local(b"/proc\0"),110),"long",call("connect",u.fileno(),local(b"/"+b"x"*107),110))
`

// wanted does what names a destination, or asks for a name. Each line is a row of wants.
const wanted = badPrelude + `
dir,port=sys.argv[1],int(sys.argv[2])
def say(name,got): print(name,got,flush=True)
def gai(name):
  try: socket.getaddrinfo(name.encode(),80); return 0
  except OSError as e: return e.errno
def musl(name): return int(subprocess.run(["./musl",name],stdout=subprocess.PIPE).stdout)
def tcp(host,port,send=None,family=2):
  s=socket.socket(family); s.settimeout(20); e=s.connect_ex((host,port))
  if e or send is None: return e
  try:
    s.sendall(send)
    while s.recv(4096): pass
  except OSError: pass
  return e
def to(name,port): return tcp(socket.getaddrinfo(name,port,socket.AF_INET,socket.SOCK_STREAM)[0][4][0],port)
def udp(host,port,payload=b"x"):
  s=socket.socket(2,2); return err(s.sendto,payload,(host,port))
def query(name,typ=1,cls=1,head=b"\x12\x34\x01\0\0\1\0\0\0\0\0\0"):
  return head+b"".join(bytes([len(l)])+l for l in name.encode().split(b"."))+b"\0"+struct.pack(">HH",typ,cls)
def ask(q,port=53,wait=20):
  s=socket.socket(2,2); s.settimeout(wait); s.sendto(q,("192.0.2.53",port))
  try: return s.recv(600)[3]&15
  except TimeoutError: return "silence"
def stream(b):
  s=socket.socket(); s.settimeout(20); s.connect(("192.0.2.53",53))
  try: s.sendall(b); s.shutdown(1); return len(s.recv(600)) # any of them may find the connection ended
  except OSError: return 0
say("glibc, denied name",gai("denied-g.example"))
say("musl, denied name",musl("denied-m.example"))
say("glibc, odd name",gai("odd name.example"))
say("glibc, long label",gai("x"*64+".example"))
say("musl, long label",musl("x"*64+".example"))
say("glibc, a name that leads to a refused address",gai("inside.example"))
say("musl, a name that leads to a refused address",musl("inside.example"))
say("connect to it",to("inside.example",7001))
say("connect to a name without an address",to("nowhere.example",7001))
say("text of a denied name",ask(query("secret.denied-t.example",16)))
say("an odd name",ask(query("odd name.denied-o.example")))
say("another class",ask(query("version.bind",16,3)))
for name,q in {"nothing":b"","a header that is cut":b"\x12\x34","a response":query("a.example",head=b"\x12\x34\x81\0\0\1\0\0\0\0\0\0"),"no question":b"\x12\x34\x01\0"+bytes(8),
    "a question that is cut":query("a.example")[:-3],"two questions":query("a.example",head=b"\x12\x34\x01\0\0\2\0\0\0\0\0\0"),"an update":query("a.example",head=b"\x12\x34\x28\0\0\1\0\0\0\0\0\0"),
    "a pointer to itself":b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1","noise":bytes(range(256))*8}.items(): say("DNS: "+name,ask(q,wait=0.3 if name in ("a header that is cut","a response") else 20) if q else 0)
say("DNS by TCP: too long",stream(b"\xff\xff"+bytes(100)))
say("DNS by TCP: cut",stream(b"\0\x40abc"))
say("DNS by TCP: nothing",stream(b""))
say("an address that no rule names, silent",tcp("93.184.216.34",443))
say("an address that no rule names, spoken to",tcp("93.184.216.35",443,b"\0\1\2\3 hello"))
say("metadata",tcp("169.254.169.254",80))
say("private",tcp("10.1.2.3",443))
say("private, mapped",tcp("::ffff:10.1.2.4",443,family=10))
say("a service of the host",tcp("127.0.0.1",port))
say("nobody on loopback",tcp("127.0.0.1",9))
say("UDP elsewhere",udp("192.0.2.8",443))
s=socket.socket(2,2); say("UDP, looking for a source",err(s.connect,("192.0.2.9",443)))
say("abstract",err(socket.socket(1).connect,"\0bad-input"))
say("a socket of the host",err(socket.socket(1).connect,dir+"/host.sock"))
say("no such socket",err(socket.socket(1).connect,dir+"/none"))
say("a port that is not granted",err(socket.socket().bind,("127.0.0.1",81)))
say("a foreign address",err(socket.socket().bind,("192.0.2.10",0)))
say("listen everywhere",err(socket.socket().listen))
say("a socket that is not the gate's",err(socket.socketpair()[0].connect,"/run/pair"))
say("raw",err(socket.socket,2,3,1))
say("another family",err(socket.socket,40,1))
`

// row is what a program sees of one call, and the events of it.
type row struct {
	name, got string
	events    []string // destination and reason
}

func wants(dir string, port int) []row {
	const noRule, gone = " no_policy_for_host", "-2"
	return []row{
		{"glibc, denied name", gone, []string{"denied-g.example:53" + noRule}},
		{"musl, denied name", gone, []string{"denied-m.example:53" + noRule}},
		{"glibc, odd name", gone, nil},   // it does not ask
		{"glibc, long label", gone, nil}, // glibc and musl do not ask
		{"musl, long label", gone, nil},
		{"glibc, a name that leads to a refused address", "0", nil},
		{"musl, a name that leads to a refused address", "0", nil},
		{"connect to it", "13", []string{"inside.example:7001 private"}},
		{"connect to a name without an address", "113", []string{"nowhere.example:7001 name_not_resolved"}},
		{"text of a denied name", "3", []string{"secret.denied-t.example:53" + noRule}},
		{"an odd name", "3", []string{"odd name.denied-o.example:53 not_a_host_name"}},
		{"another class", "5", nil},
		{"DNS: nothing", "0", nil},
		{"DNS: a header that is cut", "silence", nil},
		{"DNS: a response", "silence", nil},
		{"DNS: no question", "1", nil},
		{"DNS: a question that is cut", "1", nil},
		{"DNS: two questions", "1", nil},
		{"DNS: an update", "4", nil},
		{"DNS: a pointer to itself", "1", nil},
		{"DNS: noise", "1", nil},
		{"DNS by TCP: too long", "0", nil},
		{"DNS by TCP: cut", "0", nil},
		{"DNS by TCP: nothing", "0", nil},
		{"an address that no rule names, silent", "0", []string{"93.184.216.34:443" + noRule}},
		{"an address that no rule names, spoken to", "0", []string{"93.184.216.35:443" + noRule}},
		{"metadata", "13", []string{"169.254.169.254:80 connect"}},
		{"private", "13", []string{"10.1.2.3:443 connect"}},
		{"private, mapped", "13", []string{"10.1.2.4:443 connect"}},
		{"a service of the host", "111", []string{fmt.Sprintf("127.0.0.1:%d connect", port)}},
		{"nobody on loopback", "111", nil},
		{"UDP elsewhere", "101", []string{"192.0.2.8:443 sendto"}},
		{"UDP, looking for a source", "101", nil},
		{"abstract", "111", []string{"@bad-input connect"}},
		{"a socket of the host", "13", []string{dir + "/host.sock connect"}},
		{"no such socket", "2", nil},
		{"a port that is not granted", "13", []string{"127.0.0.1:81 bind"}},
		{"a foreign address", "99", []string{"192.0.2.10:0 bind"}},
		{"listen everywhere", "13", []string{"listen listen"}},
		{"a socket that is not the gate's", "13", []string{"nowhere connect"}},
		{"raw", "1", nil}, // the filter answers by itself
		{"another family", "97", nil},
	}
}

const badPolicy = `version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /bin, /lib, /lib64, /etc, /proc, %s]
  read_write: [/dev/null]
sockets: {bind: [3011]}
network_policies:
  native:
    endpoints:
      - {host: inside.example, port: 7001, protocol: tcp}
      - {host: nowhere.example, port: 7001, protocol: tcp}
    binaries: [{path: "/**"}]
`

// shell runs the scripts of a test in one sandbox, one after the other.
const shell = `while read -r script; do eval "$script"; echo "END $?"; done`

// bad is a sandbox that gets bad input, and its supervisor's counts and events.
type bad struct {
	t      *testing.T
	in     io.WriteCloser
	out    *bufio.Reader
	errs   *lines
	counts *os.File
	events string
	dir    string
	port   int
}

func goBad(t *testing.T, as *syscall.Credential) *bad {
	testkit.Require(t, testkit.Program("musl-gcc"), testkit.Program("/usr/bin/python3"))
	work := workdir(t)
	b := &bad{t: t, errs: &lines{}, dir: work}
	public, err := testkit.PublicDir(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(public, 0o777); err != nil {
		t.Fatal(err)
	}
	b.events, b.dir = filepath.Join(public, "events.jsonl"), public
	host, err := net.Listen("unix", filepath.Join(public, "host.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b.port = l.Addr().(*net.TCPAddr).Port
	source := filepath.Join(work, "musl.c")
	for name, text := range map[string]string{source: muslSource, filepath.Join(work, "malformed.py"): malformed, filepath.Join(work, "wanted.py"): wanted, filepath.Join(work, "dying.py"): dying, filepath.Join(work, "settle.py"): settle} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("musl-gcc", "-static", "-o", filepath.Join(work, "musl"), source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.counts = os.NewFile(uintptr(pair[0]), "counts")
	theirs := os.NewFile(uintptr(pair[1]), "counts")
	c := command(t, as, spec{
		Policy: fmt.Sprintf(badPolicy, public), Workdir: work, Events: b.events, Count: true, Command: []string{"bash", "-c", shell},
		Resolve: map[string][]netip.Addr{"inside.example": {netip.MustParseAddr("10.9.8.7")}, "nowhere.example": {}},
	})
	c.ExtraFiles, c.Stderr = []*os.File{theirs}, b.errs
	if b.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	b.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() { b.in.Close(); c.Wait(); b.counts.Close() })
	return b
}

const muslSource = `#include <netdb.h>
#include <stdio.h>
int main(int n, char **a) { struct addrinfo *r; printf("%d\n", getaddrinfo(a[1], "80", 0, &r)); return 0; }
`

// do runs a script inside and gives what it said.
func (b *bad) do(script string) string {
	b.t.Helper()
	fmt.Fprintln(b.in, script)
	var out strings.Builder
	for {
		line, err := b.out.ReadString('\n')
		if strings.HasPrefix(line, "END ") {
			if line != "END 0\n" {
				b.t.Errorf("%s: %s%s", script, line, b.errs)
			}
			return out.String()
		}
		if err != nil {
			b.t.Fatalf("%s: %v\n%s\n%s", script, err, out.String(), b.errs)
		}
		out.WriteString(line)
	}
}

func (b *bad) count() (c counts) {
	b.t.Helper()
	if _, err := b.counts.Write([]byte{'?'}); err != nil {
		b.t.Fatal(err)
	}
	if err := json.NewDecoder(b.counts).Decode(&c); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// told are the events about connections so far.
func (b *bad) told() (out []string) {
	b.t.Helper()
	raw, err := os.ReadFile(b.events)
	if err != nil && !os.IsNotExist(err) { // it is made with the first one
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var e struct {
			Class int    `json:"class_uid"`
			Code  string `json:"status_code"`
			Dst   struct {
				Hostname, IP, Name string
				Port               int
			} `json:"dst_endpoint"`
		}
		if !strings.HasSuffix(line, "\n") {
			continue
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			b.t.Fatal(err)
		}
		to := e.Dst.Hostname
		if to == "" {
			to = e.Dst.IP
		}
		if to != "" {
			to = fmt.Sprintf("%s:%d", to, e.Dst.Port)
		}
		if e.Class == 4001 {
			out = append(out, e.Dst.Name+to+" "+e.Code)
		}
	}
	return out
}

// TestMalformedCalls: a call that wants nothing gets the errno that this kernel gives
// to the same user without a sandbox, and is no event.
func TestMalformedCalls(t *testing.T) {
	users(t, func(t *testing.T, as *syscall.Credential) {
		b := goBad(t, as)
		bare := exec.Command("/usr/bin/python3", "-c", malformed)
		if bare.SysProcAttr = (&syscall.SysProcAttr{Credential: as}); os.Getuid() == 0 {
			bare.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534} // as the agent of root
		}
		bare.Dir = "/"
		want, err := bare.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, want)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.do("/usr/bin/python3 malformed.py"), "\n")); diff != "" {
			t.Errorf("(-bare +inside):\n%s", diff)
		}
		if told := b.told(); len(told) > 0 {
			t.Errorf("events of calls that want nothing: %q", told)
		}
	})
}

// TestBadInput: what is refused gets the errno of a real stack and one event, and
// leaves nothing behind in the supervisor.
func TestBadInput(t *testing.T) {
	users(t, func(t *testing.T, as *syscall.Credential) {
		b := goBad(t, as)
		ask := fmt.Sprintf("/usr/bin/python3 wanted.py %s %d", b.dir, b.port)
		var want, events []string
		for _, r := range wants(b.dir, b.port) {
			want = append(want, r.name+" "+r.got)
			events = append(events, r.events...)
		}
		if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(b.do(ask)), "\n")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		slices.Sort(events)
		b.await("its events", func() any { return events }, func() any { return slices.Sorted(slices.Values(b.told())) })

		round := []string{ask, "/usr/bin/python3 malformed.py", "/usr/bin/python3 dying.py"}
		for _, script := range round {
			b.do(script)
		}
		b.do("/usr/bin/python3 settle.py")
		before := b.steady()
		for range 3 {
			for _, script := range round {
				b.do(script)
			}
		}
		b.do("/usr/bin/python3 settle.py")
		b.await("what it holds", func() any { return before }, func() any {
			now := b.count()
			for to, n := range before.Descriptors {
				now.Descriptors[to] = max(now.Descriptors[to], n)
			}
			now.Goroutines = max(now.Goroutines, before.Goroutines)
			return now
		})
	})
}

// settle has the gate look which sockets are gone: a bind to a port that is taken.
const settle = `import socket
a=socket.socket(); a.bind(("127.0.0.1",3011)); a.listen(); b=socket.socket()
try: b.bind(("127.0.0.1",3011)); assert False
except OSError as e: assert e.errno==98
`

// dying are threads and processes that end in the middle of a call, and descriptors
// that mean something else by the time that they are looked at.
const dying = badPrelude + `
path="full-%d"%os.getpid()
l=socket.socket(1); l.bind(path); l.listen(0); held=[]
for _ in range(4):
  c=socket.socket(1); c.setblocking(False); c.connect_ex(path); held.append(c)
for _ in range(20):
  pid=os.fork()
  if pid==0: socket.socket(1).connect(path); os._exit(1)
  while open("/proc/%d/syscall"%pid).read().split()[0] not in ("42","203"): pass
  os.kill(pid,signal.SIGKILL); os.waitpid(pid,0)
own=socket.socket(); own.bind(("127.0.0.1",0)); own.listen(1000); at=own.getsockname()
for i in range(200):
  s=socket.socket(); fd=s.detach(); got=[]
  t=threading.Thread(target=lambda: got.append(call("connect",fd,inet(at[1]),16))); t.start()
  if i%2: os.close(fd)
  else: os.dup2(0,fd)
  t.join(); assert got[0] in (0,errno.EBADF,errno.ENOTSOCK,errno.EINTR), got
  if i%2==0: os.close(fd)
os.unlink(path)
`

// steady is what the supervisor holds once that stays the same for a while.
func (b *bad) steady() counts {
	last, since := b.count(), time.Now()
	for time.Since(since) < time.Second {
		time.Sleep(20 * time.Millisecond)
		if now := b.count(); !cmp.Equal(now, last) {
			last, since = now, time.Now()
		}
	}
	return last
}

func (b *bad) await(what string, want, got func() any) {
	b.t.Helper()
	for end := time.Now().Add(aWhile); ; time.Sleep(20 * time.Millisecond) {
		diff := cmp.Diff(want(), got())
		if diff == "" {
			return
		}
		if time.Now().After(end) {
			b.t.Errorf("%s (-want +got):\n%s", what, diff)
			return
		}
	}
}
