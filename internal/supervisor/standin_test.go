package supervisor

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// standInScript asks the policy DNS by UDP in every place where a stand-in can
// come to be, and receives on other sockets in the places of stand-ins.
const standInScript = `import os, resource, socket
q = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\6nobody\7example\0\0\1\0\1"
def ask(s):
    s.settimeout(60)
    s.sendto(q, ("192.0.2.53", 53))
    a = s.recv(512)
    return (s.getpeername(), a[3] & 15) # NXDOMAIN is 3
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
a, b = udp(), udp()
print("numbers", a.fileno(), b.fileno(), ask(a), ask(b))
a.close(); c = udp()
print("again", c.fileno(), ask(c))
moved = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, fileno=os.dup2(c.fileno(), 20)); c.close()
print("moved", moved.fileno(), moved.sendto(q, ("192.0.2.53", 53)), len(moved.recv(512)))
x, y = socket.socketpair()
stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup2(x.fileno(), 1000))
y.send(b"stream"); print("stream", stream.recvmsg(100)[0], repr(stream.getsockname()))
y.send(b"stream"); print("stream", stream.recvfrom(100)[0])
many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1000)]
d = udp(); print("crowded", d.fileno() > 1000, d.sendto(q, ("192.0.2.53", 53)), len(d.recv(512)))
for f in many: os.close(f)
b.close(); d.close(); stream.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
e = udp(); print("low limit", e.fileno() < 256, e.sendto(q, ("192.0.2.53", 53)), len(e.recv(512)))
try: e.sendto(q, ("192.0.2.53", 443))
except OSError as err: print("elsewhere", err.errno)
`

// A stand-in works whatever number it has, and a number makes no other socket
// into one.
func TestStandIns(t *testing.T) {
	if _, err := exec.LookPath("/usr/bin/python3"); err != nil {
		t.Skip("no python3")
	}
	const want = `numbers 960 961 (('192.0.2.53', 53), 3) (('192.0.2.53', 53), 3)
again 960 (('192.0.2.53', 53), 3)
moved 20 32 32
stream b'stream' ''
stream b'stream'
crowded True 32 32
low limit True 32 32
elsewhere 101
`
	users(t, func(t *testing.T, as *syscall.Credential) {
		out, status := try(t, as, spec{Command: []string{"sh", "-c", "ulimit -n 4096; exec /usr/bin/python3 -c \"$0\"", standInScript}})
		var said []string
		for l := range strings.Lines(out) {
			if !strings.HasPrefix(l, "note:") {
				said = append(said, l)
			}
		}
		if got := strings.Join(said, ""); got != want || status != 0 {
			t.Errorf("status %d:\n%s\nwant\n%s", status, got, want)
		}
	})
}
