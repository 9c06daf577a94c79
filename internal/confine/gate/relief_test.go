package gate_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/internal/confine/gate"
	"sallyport/internal/testkit"
)

// hanging makes memory whose first use does not return, in the process as in the
// kernel: a userfaultfd that nobody reads. For the kernel it is a page of a file
// that takes for ever.
const hanging = prelude + `
import fcntl,struct
libc=ctypes.CDLL(None,use_errno=True); libc.mmap.restype=ctypes.c_void_p
uffd=libc.syscall({"x86_64":323,"aarch64":282}[os.uname().machine],os.O_CLOEXEC); assert uffd>=0, ctypes.get_errno()
fcntl.ioctl(uffd,0xc018aa3f,bytearray(struct.pack("QQQ",0xaa,0,0)))
def memory():
  at=libc.mmap(None,4096,3,0x22,-1,0); fcntl.ioctl(uffd,0xc020aa00,bytearray(struct.pack("QQQQ",at,4096,1,0))); return at
def answer(at): fcntl.ioctl(uffd,0xc020aa04,bytearray(struct.pack("QQQq",at,4096,0,0)))
def connect(s,at,got): got.append((libc.connect(s.fileno(),ctypes.c_void_p(at),16), ctypes.get_errno()))
def hang(n):
  "n calls whose memory does not answer"
  for _ in range(n):
    s,at,got=socket.socket(),memory(),[]; t=thread(connect,s,at,got); calls.append((s,at,got,t)); waiting(len(calls))
calls=[]
def free():
  for s,at,got,t in calls:
    answer(at); t.join(); assert got==[(0,0)], got   # AF_UNSPEC
`

// Where no thread is left for another worker, as in a network namespace that took
// all, everybody waits for the call that is held up, and nothing ends.
func TestMemoryThatHangsWithoutRelief(t *testing.T) {
	testkit.Require(t, testkit.Root())
	b := newBox(t)
	var asked atomic.Int32
	b.thread = func(f func()) error {
		if asked.Add(1) > 1 {
			return errors.Join(errors.New("no thread is left"), os.WriteFile(filepath.Join(b.dir, "asked"), nil, 0o644))
		}
		go f()
		return nil
	}
	out, status := b.run(t, "python3", "-c", hanging+`
hang(1); t=thread(proxy)
while not os.path.exists("asked"): time.sleep(0.01)
assert t.is_alive(), "control: nobody was held up"
free(); t.join(); proxy(20)`)
	if out != "" || status != 0 {
		t.Errorf("status %d, asked %d times for a thread\n%s", status, asked.Load(), out)
	}
}

// The end of a sandbox does not wait for memory that outlives it, where no other
// worker could take the place of the one that does.
func TestEndDoesNotWaitForMemory(t *testing.T) {
	testkit.Require(t, testkit.Root())
	b := newBox(t)
	first := true
	b.closes, b.thread = true, func(f func()) error {
		if !first {
			return errors.New("no thread is left")
		}
		first = false
		go f()
		return nil
	}
	taken := make(chan int, 1)
	go func() { // the test keeps the memory from ending with its process
		var pid, fd int
		for pid == 0 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
			where, _ := os.ReadFile(filepath.Join(b.dir, "where"))
			fmt.Sscan(string(where), &pid, &fd)
		}
		process, _ := unix.PidfdOpen(pid, 0)
		defer unix.Close(process)
		held, err := unix.PidfdGetfd(process, fd, 0)
		if err != nil {
			held = -1
		}
		taken <- held
		os.WriteFile(filepath.Join(b.dir, "taken"), nil, 0o644)
	}()
	var late atomic.Bool
	held := -1
	answers := time.AfterFunc(2*time.Minute, func() {
		late.Store(true)
		held = <-taken
		unix.Close(held)
	})
	out, status := b.run(t, "python3", "-c", hanging+`
hang(1); open("new","w").write("%d %d"%(os.getpid(),uffd)); os.rename("new","where")
while not os.path.exists("taken"): time.sleep(0.01)
t=thread(proxy); t.join(0.5); assert t.is_alive(), "control: nobody was held up"
os._exit(0)`)
	if answers.Stop() {
		held = <-taken
		unix.Close(held)
	}
	if out != "" || status != 0 || held < 0 || late.Load() {
		t.Errorf("status %d, memory held %d, waited for it %v\n%s", status, held, late.Load(), out)
	}
}

// A call whose memory does not answer holds up its caller and nobody else; too many
// of them are refused and told; when memory answers again, all is as before.
func TestMemoryThatHangs(t *testing.T) {
	testkit.Require(t, testkit.Root())
	const refused = "too many calls of this sandbox wait for memory that does not answer"
	for _, tt := range []struct {
		name, script string
		limits       gate.Limits
		told         int
	}{
		{"others are served", `
hang(3); proxy(20); assert all(t.is_alive() for *_,t in calls), "control: no call was held up"
free(); proxy(20)`, gate.Limits{}, 0},
		{"too many", `
hang(2); e=errno.EAGAIN
for _ in range(600):
  e=err(proxy)
  if e: break
  time.sleep(0.01)
assert e==errno.EAGAIN, e
free()
while err(proxy): time.sleep(0.01)
proxy(20)`, gate.Limits{Held: 2}, 1},
		{"a bind to a path", `
import tempfile
hang(1); s=socket.socket(socket.AF_UNIX); s.bind("here"); proxy(); free()`, gate.Limits{}, 0},
		{"the end", `
hang(2); proxy(); os._exit(0)`, gate.Limits{}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			b.limits = tt.limits
			out, status := b.run(t, "python3", "-c", hanging+tt.script)
			if out != "" || status != 0 {
				t.Errorf("status %d\n%s", status, out)
			}
			if got := slices.Contains(b.reasons(), refused); got != (tt.told > 0) {
				t.Errorf("denials %q, want one of too many: %v", b.reasons(), tt.told > 0)
			}
		})
	}
}
